//! JSON, as much of it as is written here.
//!
//! Invariant: what comes out is valid JSON if every `open` has its `close` and objects alternate keys and values.

use std::fmt::{Display, Write};

/// A text in the making.
#[derive(Default)]
pub(crate) struct Json {
    out: String,
    /// Something stands before the next value, on the same level.
    follows: bool,
}

impl Json {
    /// Begins an object (`{`) or an array (`[`).
    pub(crate) fn open(&mut self, bracket: char) -> &mut Self {
        self.comma();
        self.out.push(bracket);
        self.follows = false;
        self
    }

    /// Ends it, with `}` or `]`.
    pub(crate) fn close(&mut self, bracket: char) -> &mut Self {
        self.out.push(bracket);
        self.follows = true;
        self
    }

    /// A field's name.
    pub(crate) fn key(&mut self, name: &str) -> &mut Self {
        self.text(name);
        self.out.push(':');
        self.follows = false;
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.comma();
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => self.out.extend(['\\', c]),
                '\u{20}'.. => self.out.push(c),
                _ => self.print(format_args!("\\u{:04x}", u32::from(c))),
            }
        }
        self.out.push('"');
        self.follows = true;
        self
    }

    /// A number, `true` or `false`.
    pub(crate) fn plain(&mut self, value: impl Display) -> &mut Self {
        self.comma();
        self.print(format_args!("{value}"));
        self.follows = true;
        self
    }

    /// A text, or `null`.
    pub(crate) fn text_or_null(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.plain("null"),
        }
    }

    /// A number, `true` or `false`, or `null`.
    pub(crate) fn plain_or_null(&mut self, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.plain(value),
            None => self.plain("null"),
        }
    }

    pub(crate) fn into_string(self) -> String {
        self.out
    }

    fn comma(&mut self) {
        if self.follows {
            self.out.push(',');
        }
    }

    fn print(&mut self, what: std::fmt::Arguments<'_>) {
        self.out.write_fmt(what).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_commas_stand_between_values() {
        let mut json = Json::default();
        json.open('{').key("a\"\\\n").plain(1).key("b").open('[').text("\u{1}ü").plain(true);
        json.text_or_null(None).open('{').close('}').close(']').key("c").plain_or_null(Some(2.5)).close('}');
        assert_eq!(json.into_string(), "{\"a\\\"\\\\\\u000a\":1,\"b\":[\"\\u0001ü\",true,null,{}],\"c\":2.5}");
    }
}
