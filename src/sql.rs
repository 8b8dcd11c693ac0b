//! The only way to write a statement: text known at compile time, with identifiers and literals quoted by construction.
//!
//! ```
//! use walferry::relation::TableName;
//! use walferry::sql::Sql;
//!
//! let table = Sql::table(&TableName::new("Sales", "o\"x"));
//! let count = Sql::format("SELECT count(*) FROM {} WHERE note = {}", &[&table, &Sql::literal("it's")]);
//! assert_eq!(count.as_str(), r#"SELECT count(*) FROM "Sales"."o""x" WHERE note = 'it''s'"#);
//! ```

use std::borrow::Cow;
use std::fmt;

use postgres_protocol::escape::{escape_identifier, escape_literal};

use crate::relation::TableName;

/// A statement or a piece of one. There is no way in for text that is neither quoted nor a constant, except
/// [`Sql::from_catalog`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sql(Cow<'static, str>);

impl Sql {
    /// Text of the program itself.
    pub const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// An identifier, quoted.
    pub fn ident(name: &str) -> Self {
        Self(Cow::Owned(escape_identifier(name)))
    }

    /// A string literal, quoted (`E''` when it holds a backslash).
    pub fn literal(text: &str) -> Self {
        // A leading blank before E'' comes from the library; harmless in a statement, unexpected in a message.
        Self(Cow::Owned(escape_literal(text).trim_start().to_owned()))
    }

    /// A number.
    pub fn number(value: impl Into<i128>) -> Self {
        Self(Cow::Owned(value.into().to_string()))
    }

    /// `"schema"."table"`.
    pub fn table(name: &TableName) -> Self {
        Self(Cow::Owned(format!("{}.{}", escape_identifier(&name.schema), escape_identifier(&name.name))))
    }

    /// An expression printed by a server's own catalogue functions (`pg_get_expr`, `format_type`): already quoted, and
    /// to be sent only to a server that holds the same definition.
    pub fn from_catalog(text: String) -> Self {
        Self(Cow::Owned(text))
    }

    /// The template with each `{}` replaced by the next piece.
    ///
    /// # Panics
    /// When the number of `{}` and of pieces differ: a mistake in the program.
    pub fn format(template: &'static str, pieces: &[&Sql]) -> Self {
        let mut text = String::with_capacity(template.len() + pieces.iter().map(|piece| piece.0.len()).sum::<usize>());
        let mut pieces = pieces.iter();
        let mut rest = template;
        while let Some((before, after)) = rest.split_once("{}") {
            text.push_str(before);
            text.push_str(&pieces.next().expect("fewer pieces than {} in the template").0);
            rest = after;
        }
        assert!(pieces.next().is_none(), "more pieces than {{}} in the template");
        text.push_str(rest);
        Self(Cow::Owned(text))
    }

    /// The pieces with `separator` between them.
    pub fn join<'a>(pieces: impl IntoIterator<Item = &'a Sql>, separator: &'static str) -> Self {
        let pieces: Vec<&str> = pieces.into_iter().map(Sql::as_str).collect();
        Self(Cow::Owned(pieces.join(separator)))
    }

    /// The text, to be sent or shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_name_or_a_literal_stays_in_it() {
        assert_eq!(Sql::ident("a\"; DROP TABLE x; --").as_str(), "\"a\"\"; DROP TABLE x; --\"");
        assert_eq!(Sql::literal("a'; DROP TABLE x; --").as_str(), "'a''; DROP TABLE x; --'");
        assert_eq!(Sql::literal("back\\slash").as_str(), "E'back\\\\slash'");
        assert_eq!(Sql::number(-5).as_str(), "-5");
    }

    #[test]
    fn braces_in_a_piece_are_not_places() {
        let piece = Sql::literal("{}");
        assert_eq!(Sql::format("a {} b {}", &[&piece, &piece]).as_str(), "a '{}' b '{}'");
    }

    #[test]
    #[should_panic(expected = "fewer pieces")]
    fn a_missing_piece_is_a_mistake_of_the_program() {
        Sql::format("{}", &[]);
    }
}
