use super::*;
use proptest::prelude::*;

#[test]
fn the_last_match_s_last_participating_group_is_the_candidate() {
    let mut pattern = Pattern::new(r"(?i)answer\s*:\s*(?:\(([a-z])\)|([a-z]+))").unwrap();
    for (text, want) in [
        ("Answer: A. No: answer: (c)", "c"),
        ("answer: Paris", "Paris"),
        ("nothing", "nothing"),
        ("", ""),
    ] {
        assert_eq!(candidate(&mut pattern, text), want);
    }
    assert_eq!(candidate(&mut Pattern::new("b+").unwrap(), "b bb c"), "bb");
    assert!(Pattern::new("(").is_err());
}

fn candidate<'t>(pattern: &mut Pattern, text: &'t str) -> &'t str {
    pattern.candidate(text, &Control::default()).unwrap()
}

#[test]
fn attempts_in_vain_do_not_add_up() {
    // Each would take some 10^11 steps.
    for (pattern, piece) in
        [(r"\(([^)]*)\)", "("), (r"\s+([A-D])", " "), (r"[a-z]+\d", "a"), (r"a+b", "a")]
    {
        let text = piece.repeat(400_000);
        let mut pattern = Pattern::new(pattern).unwrap();
        assert!(pattern.sequence.is_some());
        assert_eq!(candidate(&mut pattern, &text), text);
    }
}

const SEQUENCES: [&str; 10] = [
    r"(?i)answer\s*:\s*([A-Z])",
    r"(?i)answer\s*:\s*([^\s\n]+)",
    r"(?i)ans\w{0,3}[:=]\s*(\d+)",
    r"a+b",
    r"(a)(b*)c?",
    r"\b([A-D])\b",
    r"^[a-d]\s*([x:])$",
    r"\*\*([^*]+)\*\*",
    r"a{2,3}b{1}",
    r"[ab]([cd]{1,2})",
];

#[test]
fn plain_sequences_take_the_short_way() {
    for pattern in SEQUENCES {
        assert!(Pattern::new(pattern).unwrap().sequence.is_some(), "{pattern}");
    }
    for pattern in [r"^\s*([a-d])$", "ab|c", "(a)?b", "a*a", "a+?b", "(ab)+", r"\w+\b", ""] {
        assert!(Pattern::new(pattern).unwrap().sequence.is_none(), "{pattern}");
    }
}

proptest! {
    #[test]
    fn both_ways_find_the_same(
        which in 0..SEQUENCES.len(),
        text in "(Answer|ANS|answer|[ :=*]|[a-dA-D]|[0-9]|\\n){0,12}", times in 1usize..40)
    {
        // Repeated, a text also makes attempts in vain.
        let text = text.repeat(times);
        let mut short = Pattern::new(SEQUENCES[which]).unwrap();
        let mut general = short.clone();
        general.sequence = None;
        prop_assert_eq!(candidate(&mut short, &text), candidate(&mut general, &text));
    }
}
