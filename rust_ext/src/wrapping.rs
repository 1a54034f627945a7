//! Answers that are texts, out of what replies wrap them in.

use crate::cues::{LATEX, LEADS};
use crate::statements::boxed;

/// A text without what wraps an answer: of `\boxed{…}` and `<answer>…</answer>` what they hold, of a
/// last line that begins with "Answer:" or "The answer is" what follows, and what stands below a
/// heading "Answer".
pub(crate) fn unwrapped(text: &str) -> &str {
    let mut text = text.trim();
    // "<answer>The answer is Paris.</answer>"
    for _ in 0..4 {
        let inner = once(text);
        if inner.len() == text.len() {
            break;
        }
        text = inner;
    }
    text
}

fn once(text: &str) -> &str {
    let text = without_end_marks(text);
    let several = |opening: &str| {
        text.rfind(opening).is_some_and(|at| {
            let line = text[..at].rfind('\n').map_or(0, |line| line + 1);
            text[line..at].contains(opening)
        })
    };
    if let Some(inner) = boxed(text).map(str::trim).filter(|inner| !inner.is_empty()) {
        if several("\\boxed{") {
            return text;
        }
        let styled = LATEX.iter().find_map(|name| {
            inner.strip_prefix('\\')?.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')
        });
        return styled.filter(|inner| !inner.contains(['{', '}'])).unwrap_or(inner).trim();
    }
    for (opening, closing) in [("<answer>", "</answer>"), ("<Answer>", "</Answer>")] {
        if let Some(at) = text.rfind(opening).filter(|_| !several(opening)) {
            let inner = &text[at + opening.len()..];
            let inner = inner.find(closing).map_or(inner, |end| &inner[..end]).trim();
            return if inner.is_empty() { text } else { inner };
        }
    }
    let (above, line) = text.rsplit_once('\n').unwrap_or(("", text));
    let heading = above.trim_end().rsplit('\n').next().unwrap_or("");
    if is_heading(heading) && !line.trim().is_empty() {
        return line.trim();
    }
    said_in(line).unwrap_or(text)
}

fn is_heading(line: &str) -> bool {
    let name = line.trim_matches([' ', '*', '_', '#', ':', '\r']);
    !line.trim().is_empty()
        && ["answer", "final answer"].iter().any(|heading| name.eq_ignore_ascii_case(heading))
}

/// What a line that begins so says is the answer.
fn said_in(line: &str) -> Option<&str> {
    let begins = |text: &str, with: &str| {
        text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with))
    };
    let mut bare = line.trim_start_matches([' ', '*', '_', '#']);
    if let Some(lead) = LEADS.iter().find(|lead| begins(bare, lead)) {
        bare = bare[lead.len()..].trim_start_matches([',', ' ']);
    }
    let cues = [
        "the final answer is",
        "the answer is",
        "final answer is",
        "final answer:",
        "final answer**:",
        "answer:",
        "answer**:",
    ];
    let cue = cues.iter().find(|cue| begins(bare, cue))?;
    let behind = &bare[cue.len()..];
    if cue.ends_with("is") && !behind.starts_with([' ', ':', '*']) {
        return None; // "isn't"
    }
    let said = behind.strip_prefix("**").unwrap_or(behind).trim_start_matches([' ', ':']).trim();
    let said = match said.strip_prefix("**").and_then(|inner| inner.split_once("**")) {
        Some((inner, ".")) => inner,
        _ if said.matches("**").count() % 2 == 1 => said.trim_matches('*').trim(),
        _ => said,
    };
    Some(said).filter(|said| !said.is_empty())
}

/// What a chat template ends a turn with, where a server leaves it in.
fn without_end_marks(mut text: &str) -> &str {
    loop {
        let bare = text.strip_suffix("</s>").or_else(|| {
            let inner = text.strip_suffix("|>")?;
            let at = inner.rfind("<|")?;
            (at > 0 && !inner[at + 2..].contains([' ', '|'])).then(|| &text[..at])
        });
        match bare.map(str::trim_end).filter(|bare| !bare.is_empty()) {
            Some(bare) => text = bare,
            None => return text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_taken_out_of_its_wrapping() {
        for (text, want) in [
            ("Paris", "Paris"),
            ("The answer is Paris.", "Paris."),
            ("Answer: **Paris**.", "Paris"),
            ("**Answer:** Paris", "Paris"),
            ("It lies on the Seine.\n\n**Final answer:** Paris", "Paris"),
            ("<answer> Paris </answer>", "Paris"),
            ("so $\\boxed{\\text{Paris}}$.", "Paris"),
            ("\\boxed{\\text{a} + \\text{b}}", "\\text{a} + \\text{b}"),
            ("Paris<|im_end|>", "Paris"),
            ("The answer is", "The answer is"),
            ("The answer isn't given.", "The answer isn't given."),
            ("So, the answer is Paris", "Paris"),
            ("### Answer\nParis", "Paris"),
            ("<Answer>Paris</Answer>", "Paris"),
            ("<answer>The answer is Paris.</answer>", "Paris."),
            ("**Answer: Paris**", "Paris"),
            ("**The answer is Paris.**", "Paris."),
            ("Answer: **Mercury**, **Venus**", "**Mercury**, **Venus**"),
            ("Answer: **United States** of America", "**United States** of America"),
            ("\\boxed{-1} and \\boxed{3}", "\\boxed{-1} and \\boxed{3}"),
            ("Paris</s>", "Paris"),
            ("Paris <|>", "Paris <|>"),
            ("Answer me\nplease", "Answer me\nplease"),
            ("<|im_end|>", "<|im_end|>"),
        ] {
            assert_eq!(unwrapped(text), want, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_safe(text in "(answer|Answer: |the answer is |<answer>|####|<\\||\\|>|<\\|>|\\*\\*|\\\\boxed\\{|\\}|is|=|\n| |[0-9é.(\"]){0,12}") {
            proptest::prop_assert!(text.contains(unwrapped(&text)));
        }
    }
}
