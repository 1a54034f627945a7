use super::*;
use crate::parallel::Control;
use crate::texts::text_lists;
use arrow_array::ArrayRef;
use arrow_array::builder::{ListBuilder, StringBuilder};
use proptest::prelude::*;
use std::sync::Arc;

fn letter(index: usize) -> String {
    let mut letters = String::new();
    letter_into(index, &mut letters);
    letters
}

fn choose(text: &str, options: &[&str]) -> Option<String> {
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value(options.iter().map(|option| Some(*option)));
    let array: ArrayRef = Arc::new(lists.finish());
    let lists = text_lists(&[array], &Control::default()).unwrap();
    Options::new(Some(&lists)).choose(text, 0).map(letter)
}

#[test]
fn options_are_picked_by_letter_number_or_text() {
    let cities = ["Paris", "London", "New York", "New York City"];
    for (text, want) in [
        ("B", Some("B")),
        (" b ", Some("B")),
        ("(b)", Some("B")),
        ("B.", Some("B")),
        ("**B**", Some("B")),
        ("B) London", Some("B")),
        ("(B) London", Some("B")),
        ("B: because", Some("B")),
        ("b) because", Some("B")),
        ("The answer is B", Some("B")),
        ("The correct answer is (C), as said.", Some("C")),
        ("Answer: A because of the river", Some("A")),
        ("answer: london", Some("B")),
        ("Option D", Some("D")),
        ("answer A? No, answer: C", Some("C")),
        ("2", Some("B")),
        ("(4)", Some("D")),
        ("5", None),
        ("0", None),
        ("E", None),
        ("paris", Some("A")),
        ("It is London!", Some("B")),
        ("It is New York City", Some("D")),
        ("Paris or London", None),
        ("I would go with C here", Some("C")),
        ("B or C", None),
        ("A mammal", None),
        ("", None),
        ("…", None),
    ] {
        assert_eq!(choose(text, &cities).as_deref(), want, "{text:?}");
    }
}

#[test]
fn the_text_of_an_option_goes_before_its_number() {
    assert_eq!(choose("4", &["2", "4", "6", "8"]).as_deref(), Some("B"));
    assert_eq!(choose("C", &["A", "C", "D", "K"]).as_deref(), Some("C"));
    assert_eq!(choose("same", &["same", "Same."]), None);
}

#[test]
fn letters_go_on_after_z() {
    let names: Vec<String> = [0, 25, 26, 51, 52, 701, 702].map(letter).into();
    assert_eq!(names, ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]);
    for i in (0..18_000).step_by(7) {
        assert_eq!(index_of(&letter(i)), Some(i));
    }
}

proptest! {
    #[test]
    fn any_text_is_safe(text in any::<String>(), options in prop::collection::vec(any::<String>(), 0..5)) {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        if let Some(found) = choose(&text, &options) {
            prop_assert!(index_of(&found).unwrap() < options.len());
        }
    }
}
