//! What changed between two texts, word by word.

use maud::{Markup, html};

use super::text;

/// A stretch of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    Same(&'a str),
    Removed(&'a str),
    Added(&'a str),
}

/// Words compared with words: 16 MiB of a table, and some 10 ms. Longer changes are shown as one.
const MOST_CELLS: usize = 4 << 20;

/// `before` and `after` in one, what is only in one of them marked.
pub(super) fn shown(before: &str, after: &str) -> Markup {
    html! {
        @for part in parts(before, after) {
            @match part {
                Part::Same(text) => (text::shown(text)),
                Part::Removed(text) => del { (text::shown(text)) },
                Part::Added(text) => ins { (text::shown(text)) },
            }
        }
    }
}

fn parts<'a>(before: &'a str, after: &'a str) -> Vec<Part<'a>> {
    let (old, new) = (words(before), words(after));
    let start = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old_middle, new_middle) = (&old_rest[..old_rest.len() - end], &new_rest[..new_rest.len() - end]);

    let mut parts: Vec<_> = old[..start].iter().map(|word| Part::Same(word)).collect();
    middle(old_middle, new_middle, &mut parts);
    parts.extend(old[old.len() - end..].iter().map(|word| Part::Same(word)));
    joined(&parts, before, after)
}

/// By the longest common subsequence.
fn middle<'a>(old: &[&'a str], new: &[&'a str], parts: &mut Vec<Part<'a>>) {
    let columns = new.len() + 1;
    let cells = (old.len() + 1).saturating_mul(columns);
    let mut longest = vec![0_u32; if cells <= MOST_CELLS { cells } else { 0 }]; // [old + 1, new + 1], of what follows
    let of = |longest: &[u32], i: usize, j: usize| longest.get(i * columns + j).copied().unwrap_or(0);
    if !longest.is_empty() {
        for i in (0..old.len()).rev() {
            for j in (0..new.len()).rev() {
                longest[i * columns + j] = match old[i] == new[j] {
                    true => of(&longest, i + 1, j + 1) + 1,
                    false => of(&longest, i + 1, j).max(of(&longest, i, j + 1)),
                };
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if !longest.is_empty() && i < old.len() && j < new.len() && old[i] == new[j] {
            parts.push(Part::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || of(&longest, i + 1, j) >= of(&longest, i, j + 1)) {
            parts.push(Part::Removed(old[i]));
            i += 1;
        } else {
            parts.push(Part::Added(new[j]));
            j += 1;
        }
    }
}

/// Words of one sort that follow each other, as one part of the text that they are of.
fn joined<'a>(parts: &[Part<'a>], before: &'a str, after: &'a str) -> Vec<Part<'a>> {
    let (mut joined, mut old, mut new) = (Vec::new(), 0, 0);
    for run in parts.chunk_by(|one, other| std::mem::discriminant(one) == std::mem::discriminant(other)) {
        let length =
            run.iter().map(|(Part::Same(word) | Part::Removed(word) | Part::Added(word))| word.len()).sum::<usize>();
        joined.push(match run[0] {
            Part::Same(_) => Part::Same(&after[new..new + length]),
            Part::Removed(_) => Part::Removed(&before[old..old + length]),
            Part::Added(_) => Part::Added(&after[new..new + length]),
        });
        if !matches!(run[0], Part::Added(_)) {
            old += length;
        }
        if !matches!(run[0], Part::Removed(_)) {
            new += length;
        }
    }
    joined
}

/// Words, and the blanks and marks between them.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut last_is_word = false;
    for (at, c) in text.char_indices() {
        let is_word = c.is_alphanumeric() || c == '_';
        if at > start && !(is_word && last_is_word) {
            words.push(&text[start..at]);
            start = at;
        }
        last_is_word = is_word;
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::Part::{Added, Removed, Same};
    use super::*;

    #[test]
    fn a_change_is_the_words_that_changed() {
        assert_eq!(
            parts("the weather in Paris, today", "the news in Paris, now"),
            [Same("the "), Removed("weather"), Added("news"), Same(" in Paris, "), Removed("today"), Added("now")]
        );
        assert_eq!(parts("same", "same"), [Same("same")]);
        assert_eq!(parts("", "new one"), [Added("new one")]);
        assert_eq!(parts("old one", ""), [Removed("old one")]);
        assert_eq!(parts("", ""), []);
        assert_eq!(parts("a\nb", "a\n\nb"), [Same("a\n"), Added("\n"), Same("b")]);
        assert_eq!(parts("naïve café", "naïve cafe"), [Same("naïve "), Removed("café"), Added("cafe")]);
    }

    #[test]
    fn both_texts_are_in_their_change_whatever_they_are() {
        use rand_chacha::ChaCha8Rng;
        use rand_chacha::rand_core::{Rng, SeedableRng};
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut text = || {
            (0..random.next_u32() % 20)
                .map(|_| ["a", "bc", " ", "\n", "é", "."][random.next_u32() as usize % 6])
                .collect::<String>()
        };
        for _ in 0..500 {
            let (before, after) = (text(), text());
            let parts = parts(&before, &after);
            let side = |removed: bool| {
                parts
                    .iter()
                    .filter_map(|part| match part {
                        Same(text) => Some(*text),
                        Removed(text) => removed.then_some(*text),
                        Added(text) => (!removed).then_some(*text),
                    })
                    .collect::<String>()
            };
            assert_eq!((side(true), side(false)), (before, after));
        }
    }

    #[test]
    fn a_change_of_very_long_texts_is_shown_as_one() {
        let (before, after) = ("a ".repeat(3000) + "x", "b ".repeat(3000) + "x");
        assert_eq!(parts(&before, &after), [Removed(&before[..5999]), Added(&after[..5999]), Same(" x")]);
    }
}
