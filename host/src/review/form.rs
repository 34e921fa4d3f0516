//! An item's fields as a file that a person changes: TOML, because texts of several lines stay what they are in it.

use crate::approval::Content;

/// The fields of `content`, under a comment that says what to do.
pub fn write(handle: &str, content: &Content) -> String {
    let fields = toml::to_string_pretty(content).unwrap_or_default(); // texts only: nothing of it can fail
    format!(
        "# Item {handle}. Change the texts, save, and leave the editor: the item is approved as you wrote it.\n\
         # Leave it as it is, or empty it, and nothing happens.\n\n{fields}"
    )
}

/// Content from the text of such a file; none where nothing is in it but comments.
///
/// # Errors
/// What is wrong, with its line.
pub fn parse(text: &str) -> Result<Option<Content>, String> {
    let empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if empty {
        return Ok(None);
    }
    toml::from_str(text).map(Some).map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
        let what = error.message().replace('\n', " ");
        line.map_or_else(|| what.clone(), |line| format!("line {line}: {what}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_as_it_was() {
        let texts = [
            "plain",
            "two\nlines\n",
            "quotes ' \" ''' \"\"\"",
            "# no comment\n# at all",
            " blanks at both ends \n\n",
            "tabs\tand\r\nreturns and \u{7} bells",
            "back\\slash \\n",
            "Ünïcödé 👍",
        ];
        for text in texts {
            let content = Content::Preference {
                instruction: "Do it".to_owned(),
                input: text.to_owned(),
                chosen: text.to_owned(),
                rejected: format!("not {text}"),
            };
            assert_eq!(parse(&write("1-00000000", &content)).unwrap(), Some(content), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        assert_eq!(parse("# a comment\n\n  \n"), Ok(None));
        let error = parse("kind = \"instruction\"\ninput = \"x\n").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
        let error = parse("kind = \"instruction\"\ninstruction = \"x\"\ninput = \"y\"").unwrap_err();
        assert!(error.contains("missing field `output`"), "{error}");
        let error =
            parse("kind = \"triplet\"\nanchor = \"x\"\npositive = \"y\"\nnegative = \"z\"\nother = 1").unwrap_err();
        assert!(error.contains("unknown field `other`"), "{error}");
    }
}
