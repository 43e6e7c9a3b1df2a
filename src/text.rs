//! Helpers for the texts of messages.

/// The most characters of a word of untrusted input that a message repeats.
const MAX_WORD: usize = 40;

/// Returns a number with its noun: `1 image`, `2 images`. The plural is that of `noun` with an `s`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Formats a whole number with commas as thousands separators.
pub(crate) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns at most `most` characters of `text`, followed by an ellipsis if it is longer.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// Returns a message about untrusted input with its long words shortened: parsers repeat what they found, and a number may
/// have hundreds of digits.
pub(crate) fn shortened_words(message: &str) -> String {
    message
        .split_inclusive(char::is_whitespace)
        .map(|word| {
            let bare = word.trim_end();
            shortened(bare, MAX_WORD) + &word[bare.len()..]
        })
        .collect()
}

/// A type whose values have names, in files and on the command line.
pub trait Named: Copy + PartialEq + 'static {
    /// All values, each with its name and what the help says about it.
    const ALL: &[(&'static str, &'static str, Self)];

    /// The name of the value.
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(.., value)| *value == self).map_or("", |(name, ..)| name)
    }

    /// The value of this name.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, ..)| *known == name).map(|(.., value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::{count, shortened, shortened_words};

    #[test]
    fn one_thing_is_singular() {
        assert_eq!([0, 1, 2].map(|n| count(n, "image")), ["0 images", "1 image", "2 images"]);
    }

    #[test]
    fn only_long_texts_are_shortened_and_never_within_a_character() {
        assert_eq!(shortened("1234", 4), "1234");
        assert_eq!(shortened("12345", 4), "1234…");
        assert_eq!(shortened("äöüß", 2), "äö…");
        assert_eq!(shortened_words("invalid number\n  at line 1"), "invalid number\n  at line 1");
        let nines = "9".repeat(400);
        assert_eq!(shortened_words(&format!("`{nines}` is\ttoo large")), format!("`{}… is\ttoo large", &nines[..39]));
    }
}
