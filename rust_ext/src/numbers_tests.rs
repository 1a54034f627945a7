use super::*;
use proptest::prelude::*;

fn read_all(cases: &[(&str, &str)], mark: DecimalMark) {
    for (text, want) in cases {
        let got = match read(text, mark) {
            Reading::None => "none".to_owned(),
            Reading::Ambiguous => "?".to_owned(),
            Reading::Number(number) => number,
        };
        assert_eq!(got, *want, "{text:?} with {mark:?}");
    }
}

#[test]
fn numbers_have_one_spelling() {
    read_all(
        &[
            ("42", "42"),
            ("The answer is 1,234,567.50.", "1234567.5"),
            ("12,34,567", "1234567"),
            ("1'234", "1234"),
            ("1\u{a0}234", "1234"),
            ("1_000", "1000"),
            ("007", "7"),
            ("-0.0", "0"),
            ("+3", "3"),
            (".5", "0.5"),
            ("5.", "5"),
            ("0.45", "0.45"),
            ("(3.2)", "-3.2"),
            ("$(3.2)", "-3.2"),
            ("($3.2 )", "-3.2"),
            ("(3.2%)", "-0.032"),
            ("−5", "-5"),
            ("€1,000", "1000"),
            ("1.5e3", "1500"),
            ("2E-3", "0.002"),
            ("1e400", "1e400"),
            ("-1.25e-40", "-1.25e-40"),
            ("10-5", "5"),
            ("5 - 3", "3"),
            ("COVID-19", "19"),
            ("grew in Q4 by 7", "7"),
            ("12 in Q4", "12"),
            ("４２", "42"),
            ("٤٢", "42"),
            ("४२.५", "42.5"),
            ("x=-7", "-7"),
            ("4\u{200b}2", "42"),
            ("", "none"),
            ("none", "none"),
            ("Q4", "none"),
            ("e5", "none"),
            ("-", "none"),
            ("%", "none"),
            ("1e99999999999999999999", "none"),
        ],
        DecimalMark::Point,
    );
}

#[test]
fn percent_signs_stand_after_any_space() {
    for space in ["", " ", "\u{a0}", "\u{202f}", "\u{2009}", "  "] {
        assert_eq!(last_number(&format!("45{space}%")).as_deref(), Some("0.45"), "{space:?}");
        assert_eq!(last_number(&format!("1,234.5{space}％")).as_deref(), Some("12.345"));
    }
    read_all(
        &[
            ("45 percent", "0.45"),
            ("4.5 Per Cent.", "0.045"),
            ("45\\%", "0.45"),
            ("45 pct", "0.45"),
            ("5‰", "0.005"),
            ("3 percentage points", "3"),
        ],
        DecimalMark::Point,
    );
}

#[test]
fn powers_are_read_and_footnotes_dropped() {
    read_all(
        &[
            ("3×10⁵", "300000"),
            ("3 × 10⁻²", "0.03"),
            ("-1.5 x 10^6", "-1500000"),
            ("2 * 10**3", "2000"),
            ("6.02 \\times 10^{23}", "602000000000000000000000"),
            ("10²", "100"),
            ("10^-3", "0.001"),
            ("10^{6}", "1000000"),
            ("2^10", "1024"),
            ("2**3", "8"),
            ("42¹", "42"),
            ("1,234²", "1234"),
            ("12.5³ (restated)", "12.5"),
            ("5²", "?"),
            ("2^-1", "?"),
            ("2^n", "?"),
            ("9^9999", "?"),
            ("25 m²", "25"),
            ("25 m^2", "25"),
            ("x^2 + y^{2}", "none"),
            ("**42**", "42"),
            ("a_1", "none"),
        ],
        DecimalMark::Point,
    );
}

#[test]
fn signs_and_parentheses_belong_to_numbers_alone() {
    read_all(
        &[
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("-US$5", "-5"),
            ("-US$ 5", "-5"),
            ("-₩500", "-500"),
            ("−A$1,000", "-1000"),
            ("-USD 5", "-5"),
            ("US$5", "5"),
            ("(US$5)", "-5"),
            ("- 5", "5"),
            ("f(5)", "none"),
            ("f(5) = 7", "7"),
            ("sqrt(16)", "none"),
            ("12 (3)", "3"),
            ("(3)", "-3"),
            ("so it is (42).", "42"),
            ("Answer: (12)", "-12"),
            ("Net income: (5)", "-5"),
            ("| Net income | (12) |", "-12"),
            ("2\\pi", "?"),
            ("\\boxed{\\left(18\\right)}", "18"),
            ("\\boxed{50\\% \\text{ or } 0.5}", "0.5"),
            ("7 apples (7)", "7"),
            ("7 apples (7.5)", "-7.5"),
            ("-3 ( 3 )", "-3"),
            ("minus 5", "-5"),
            ("Negative 5", "-5"),
            ("10 minus 5", "5"),
            ("12 apples minus 5", "5"),
            ("non-negative 5", "5"),
            ("It fell to minus 5", "-5"),
            ("$(5)", "-5"),
            ("USD (5)", "-5"),
            ("a loss of $(5) million", "-5"),
            ("(5) million", "-5"),
            ("(5)%", "-0.05"),
            ("(3.2)%", "-0.032"),
            ("-$7 (7)", "-7"),
            ("- 5 (5)", "-5"),
            ("\\boxed{90^\\circ}", "90"),
        ],
        DecimalMark::Point,
    );
}

#[test]
fn what_can_be_read_in_two_ways_is_not_read() {
    read_all(
        &[
            ("1,5", "?"),
            ("1.234,5", "?"),
            ("1.234.567", "?"),
            ("3.2.1", "?"),
            ("12.05.2020", "?"),
            ("1,2,3", "?"),
            ("1,5 or rather 7", "7"),
            ("1.234", "1.234"),
            ("1,234", "1234"),
            ("1/2", "?"),
            ("5 1/2", "?"),
            ("½", "?"),
            ("2½", "?"),
            ("6 / 2", "?"),
            ("6/2 = 3", "3"),
            ("\\frac{1}{2}", "?"),
            ("The answer is $\\frac{1}{2}$.", "?"),
            ("so $2\\sqrt{6}$", "?"),
            ("1 000", "?"),
            ("$12 000", "?"),
            ("12 500 dollars", "?"),
            ("in 2019 206", "206"),
            ("2√6", "?"),
            ("3 / 4 of a cup", "?"),
            ("\\color{blue}{18}", "18"),
            ("The answer is $\\frac{36}{2} = 18$.", "18"),
            ("1{,}000", "1000"),
            ("1,\\!234,\\!000", "1234000"),
            ("10\\,000", "10000"),
            ("1{,}5", "?"),
        ],
        DecimalMark::Point,
    );
    read_all(
        &[
            ("1,5", "1.5"),
            ("1.234,5", "1234.5"),
            ("1.234.567", "1234567"),
            ("1 234 567,8", "1234567.8"),
            ("1\u{202f}234,5\u{a0}%", "12.345"),
            ("1.234", "1234"),
            ("1.5", "1.5"),
            ("1234.567", "1234.567"),
            (",5", "0.5"),
            ("1,234.5", "?"),
            ("1,2,3", "?"),
            ("5 6", "6"),
            ("3 2019", "2019"),
            ("-3,5e-2", "-0.035"),
            ("12,34,567", "?"),
        ],
        DecimalMark::Comma,
    );
}

#[test]
fn a_marked_answer_goes_before_what_follows() {
    read_all(
        &[
            ("\\boxed{42}", "42"),
            ("So \\boxed{1,234.5} since 6 × 7", "1234.5"),
            ("\\boxed{\\text{about } 7\\%} (see 3)", "0.07"),
            ("\\boxed{1} then \\boxed{2}", "2"),
            ("\\boxed{none}, so 5", "none"),
            ("\\boxed{}, so 5", "5"),
            ("f(9) = 53, \\boxed{\\frac74}", "?"),
            ("\\boxed{3\\sqrt{6}}", "?"),
            ("\\boxed{[9, 7)}", "?"),
            ("\\boxed{5 + 6i}", "?"),
            ("\\boxed{2\\pi}", "?"),
            ("\\boxed{x = 12}", "12"),
            ("\\boxed{12 = x}", "12"),
            ("\\boxed{x = 12, y = 5}", "?"),
            ("\\boxed{\\frac{36}{2} = 18}", "18"),
            ("\\boxed{2\\pi \\approx 6.28}", "6.28"),
            ("\\boxed{18 \\, \\frac{km}{h}}", "18"),
            ("\\boxed{25\\,\\%}", "0.25"),
            ("\\boxed{25\\text{ percent}}", "0.25"),
            ("\\boxed{\\textcolor{red}{18}}", "18"),
            ("\\boxed{42 \\text{ m}^2}", "42"),
            ("\\boxed{(42)}", "42"),
            ("The answer is 42. (We used 3 steps.)", "42"),
            ("Answer: 3 + 4 = 7", "7"),
            ("Answer: see 3 below", "3"),
            ("Answer: \u{5c0f}\u{660e}5, 12", "12"),
            ("The answer follows: it is 5, or 6", "6"),
            ("42\n\nExplanation: there are 6 rows with 7 each.", "42"),
            ("#### Step 1\nAdd 5 and 37.\n\nThe answer is 42.", "42"),
            ("\\boxed{3", "3"),
            ("#### 42", "42"),
            ("12 * 3 = 36\n#### 36\nQ: 5 + 5?", "36"),
            ("#### no\n7", "7"),
            ("$\\boxed{-\\$5}$", "-5"),
        ],
        DecimalMark::Point,
    );
}

#[test]
fn long_texts_take_time_in_proportion() {
    for piece in [
        "1,222",
        "1 ",
        "$",
        "1,",
        "(",
        "10^",
        "5²",
        "- ",
        "1e",
        "\\boxed{",
        "####",
        "x10",
        "answer",
        "answer:",
        "the answer is 5\nbut ",
        "#### 1. ",
        "answer is\n",
    ] {
        let text = format!("1{}", piece.repeat(60_000 / piece.len()));
        let start = std::time::Instant::now();
        for mark in [DecimalMark::Point, DecimalMark::Comma] {
            let _ = read(&text, mark);
        }
        assert!(start.elapsed().as_secs() < 4, "{piece:?}");
    }
}

proptest! {
    #[test]
    fn spelling_is_stable_and_keeps_the_value(
        text in "[-+$( ]{0,2}[0-9,.]{1,12}(e-?[0-9]{1,2}|[⁰²⁵]|\\^[0-9])?[\u{a0} ]?[%)]?", comma: bool)
    {
        let mark = if comma { DecimalMark::Comma } else { DecimalMark::Point };
        if let Reading::Number(once) = read(&text, mark) {
            prop_assert_eq!(last_number(&once), Some(once.clone()));
            prop_assert!(value(&once).is_some());
        }
    }

    #[test]
    fn numbers_written_by_a_locale_keep_their_value(
        whole in 0u64..10_000_000_000, cents in 0u8..100, negative: bool, form in 0usize..6)
    {
        // Separators of thousands and decimals: English, German, Swiss, French (two), Nordic.
        let (by, point, mark) = [
            (",", ".", DecimalMark::Point),
            (".", ",", DecimalMark::Comma),
            ("\u{2019}", ".", DecimalMark::Point),
            ("\u{202f}", ",", DecimalMark::Comma),
            ("\u{a0}", ",", DecimalMark::Comma),
            (" ", ",", DecimalMark::Comma),
        ][form];
        let digits = whole.to_string();
        let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev()
            .map(|group| std::str::from_utf8(group).unwrap()).collect();
        let sign = if negative { "-" } else { "" };
        let text = format!("Total: {sign}{}{point}{cents:02}", groups.join(by));
        let want: f64 = format!("{sign}{whole}.{cents:02}").parse().unwrap();
        let got = read(&text, mark).number().and_then(|n| value(&n));
        prop_assert_eq!(got, Some(want + 0.0), "{}", text);
    }

    #[test]
    fn plain_numbers_keep_their_value(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
        let spelled = last_number(&format!("{x:e}")).unwrap();
        prop_assert_eq!(value(&spelled), Some(x));
    }

    #[test]
    fn any_text_is_safe(text in any::<String>()) {
        last_number(&text);
    }
}
