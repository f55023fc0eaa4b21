//! Foreign text without what a terminal or a log would act on.
//!
//! What a plugin says, or a record holds, is shown to people: a line break could forge a line, an escape sequence could steer the terminal.
//! Pure: no clock, no I/O.

/// Text without what a terminal would act on; lines stay lines.
pub(crate) fn printable(text: &str) -> String {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// The same in one line.
pub(crate) fn one_line(text: &str) -> String {
    escaped(text, |c| c == '\t')
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut kept, c| {
        match c {
            c if is_kept(c) => kept.push(c),
            // Some terminals break lines at these, too.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => kept.extend(c.escape_default()),
            c => kept.push(c),
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_as_what_it_is() {
        let text = "a\u{1b}[2Jb\rc\nd\u{9b}e\tf\u{2028}\u{e4}";
        assert_eq!(printable(text), "a\\u{1b}[2Jb\\rc\nd\\u{9b}e\tf\\u{2028}\u{e4}");
        assert_eq!(one_line(text), "a\\u{1b}[2Jb\\rc\\nd\\u{9b}e\tf\\u{2028}\u{e4}");
    }
}
