//! Table patterns: `public.*`, `!public.audit_*`, `Sales.Order?`, `"my.schema"."T"`.
//!
//! In: the configuration's list. Out: whether a table is chosen. A table is chosen when a pattern without `!` matches
//! it and no pattern with `!` does; their order means nothing. Without a pattern that includes, everything is.
//! Unlike in SQL nothing is folded to lower case: a pattern is compared with the catalogue's name exactly as written.

use super::error::PatternError;
use crate::relation::TableName;

/// A checked list of table patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    schema: Vec<Token>,
    name: Vec<Token>,
}

/// A piece of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// This character.
    Exactly(char),
    /// `?`: any one character.
    One,
    /// `*`: any characters, or none.
    Any,
}

impl Patterns {
    /// Reads the patterns. An empty list includes everything.
    ///
    /// # Errors
    /// Names the first pattern that cannot be read, and why.
    pub fn parse(patterns: &[String]) -> Result<Self, PatternError> {
        let mut parsed = Self { include: Vec::new(), exclude: Vec::new() };
        for text in patterns {
            let (list, body) = match text.strip_prefix('!') {
                Some(body) => (&mut parsed.exclude, body),
                None => (&mut parsed.include, text.as_str()),
            };
            let pattern = Pattern::parse(text, body);
            list.push(pattern.map_err(|problem| PatternError { pattern: text.clone(), problem })?);
        }
        Ok(parsed)
    }

    /// Whether the table is chosen.
    pub fn matches(&self, table: &TableName) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(table));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// The including patterns, as written, that match none of `tables` (whether or not another excludes it): most
    /// likely misspelt.
    pub fn unmatched<'a>(&self, tables: impl IntoIterator<Item = &'a TableName>) -> Vec<&str> {
        let mut left: Vec<&Pattern> = self.include.iter().collect();
        for table in tables {
            left.retain(|pattern| !pattern.matches(table));
        }
        left.into_iter().map(|pattern| pattern.text.as_str()).collect()
    }
}

impl Pattern {
    fn parse(text: &str, body: &str) -> Result<Self, &'static str> {
        let (schema, rest) = part(body)?;
        let rest = rest.strip_prefix('.').ok_or("it has no schema; write schema.table")?;
        let (name, rest) = part(rest)?;
        if !rest.is_empty() {
            return Err("something follows the table's name; a name with a dot goes in double quotes");
        }
        Ok(Self { text: text.to_owned(), schema, name })
    }

    fn matches(&self, table: &TableName) -> bool {
        glob(&self.schema, &table.schema) && glob(&self.name, &table.name)
    }
}

/// One name at the start of `text`, and what follows it.
fn part(text: &str) -> Result<(Vec<Token>, &str), &'static str> {
    let (tokens, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_name(quoted)?,
        None => bare_name(text)?,
    };
    if tokens.is_empty() {
        return Err("a name is empty");
    }
    Ok((tokens, rest))
}

/// A name up to the next dot, with wildcards.
fn bare_name(text: &str) -> Result<(Vec<Token>, &str), &'static str> {
    let (name, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    if name.contains('"') {
        return Err("a double quote stands inside a name; quote the whole name, and write \"\" for the quote");
    }
    if name.contains(char::is_whitespace) {
        return Err("a name with a blank goes in double quotes");
    }
    let token = |c| match c {
        '*' => Token::Any,
        '?' => Token::One,
        c => Token::Exactly(c),
    };
    Ok((name.chars().map(token).collect(), rest))
}

/// A name up to its closing quote, every character of which means itself.
fn quoted_name(text: &str) -> Result<(Vec<Token>, &str), &'static str> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"').ok_or("a double quote is not closed")?;
        tokens.extend(before.chars().map(Token::Exactly));
        let Some(more) = after.strip_prefix('"') else { return Ok((tokens, after)) };
        tokens.push(Token::Exactly('"'));
        rest = more;
    }
}

/// Whether the whole of `name` matches. On a mismatch only the last `*` has to take more, so the cost is at most the
/// product of both lengths.
fn glob(mut pattern: &[Token], name: &str) -> bool {
    let mut name = name.chars();
    let mut retry = None;
    loop {
        let mut next = name.clone();
        match (pattern.split_first(), next.next()) {
            (Some((Token::Any, rest)), _) => {
                pattern = rest;
                retry = Some((rest, name.clone()));
                continue;
            }
            (Some((Token::One, rest)), Some(_)) => (pattern, name) = (rest, next),
            (Some((Token::Exactly(wanted), rest)), Some(c)) if *wanted == c => (pattern, name) = (rest, next),
            (None, None) => return true,
            _ => {
                let Some((rest, mut from)) = retry.take() else { return false };
                if from.next().is_none() {
                    return false;
                }
                retry = Some((rest, from.clone()));
                (pattern, name) = (rest, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(list: &[&str]) -> Result<Patterns, PatternError> {
        Patterns::parse(&list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn chosen(list: &[&str], schema: &str, name: &str) -> bool {
        patterns(list).unwrap().matches(&TableName::new(schema, name))
    }

    #[test]
    fn a_table_is_chosen_when_included_and_not_excluded_in_any_order() {
        for list in [["public.*", "!public.audit_*"], ["!public.audit_*", "public.*"]] {
            assert!(chosen(&list, "public", "orders"));
            assert!(!chosen(&list, "public", "audit_log"));
            assert!(!chosen(&list, "other", "orders"));
        }
    }

    #[test]
    fn without_an_including_pattern_everything_else_is_included() {
        assert!(chosen(&["!public.audit_*"], "any", "thing"));
        assert!(!chosen(&["!public.audit_*"], "public", "audit_"));
        assert!(chosen(&[], "any", "thing"));
    }

    #[test]
    fn names_match_exactly_as_written() {
        assert!(chosen(&["Sales.Order*"], "Sales", "Orders"));
        assert!(!chosen(&["Sales.Order*"], "sales", "orders"));
        assert!(chosen(&["s.größe?"], "s", "größe1"));
        assert!(!chosen(&["s.größe?"], "s", "größe"));
        assert!(!chosen(&["s.größe?"], "s", "größe12"));
    }

    #[test]
    fn in_quotes_every_character_means_itself() {
        assert!(chosen(&["\"my.schema\".\"T\""], "my.schema", "T"));
        assert!(chosen(&["public.\"a*\""], "public", "a*"));
        assert!(!chosen(&["public.\"a*\""], "public", "ab"));
        assert!(chosen(&["!x.y", "*.\"say \"\"hi\"\"\""], "any", "say \"hi\""));
        assert!(chosen(&["\"!odd\".t"], "!odd", "t"));
    }

    #[test]
    fn what_is_not_a_pattern_is_refused_with_the_reason() {
        let problem = |text| patterns(&[text]).unwrap_err().problem;
        assert!(problem("orders").contains("no schema"));
        assert!(problem("").contains("empty"));
        assert!(problem("!").contains("empty"));
        assert!(problem("public.").contains("empty"));
        assert!(problem("public.\"\"").contains("empty"));
        assert!(problem("a.b.c").contains("follows"));
        assert!(problem("a.\"b\"*").contains("follows"));
        assert!(problem("a.b\"c\"").contains("inside"));
        assert!(problem("a.\"b").contains("not closed"));
        assert!(problem("public.a b").contains("blank"));
        assert!(problem(" public.a").contains("blank"));
    }

    #[test]
    fn patterns_that_match_nothing_are_listed_as_written() {
        let patterns = patterns(&["public.*", "pulbic.orders", "!no.where", "public.audit", "!public.audit"]).unwrap();
        let tables = [TableName::new("public", "orders"), TableName::new("public", "audit")];
        assert_eq!(patterns.unmatched(&tables), ["pulbic.orders"]);
    }

    /// The definition: slow and plainly right.
    fn reference(pattern: &[Token], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((Token::Any, rest)), _) => (0..=name.len()).any(|taken| reference(rest, &name[taken..])),
            (Some((Token::One, rest)), Some((_, tail))) => reference(rest, tail),
            (Some((Token::Exactly(wanted), rest)), Some((c, tail))) => wanted == c && reference(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn wildcards_match_as_defined(pattern in "[ab?*]{1,8}", name in "[ab]{0,10}") {
            let (tokens, _) = bare_name(&pattern).unwrap();
            prop_assert_eq!(glob(&tokens, &name), reference(&tokens, &name.chars().collect::<Vec<_>>()));
        }

        #[test]
        fn every_name_can_be_written_and_then_matches_itself_only(
            schema in ".{1,8}", name in ".{1,8}", other in ".{1,8}",
        ) {
            let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let text = format!("{}.{}", quote(&schema), quote(&name));
            let patterns = Patterns::parse(&[text]).unwrap();
            prop_assert!(patterns.matches(&TableName::new(schema.clone(), name.clone())));
            prop_assert_eq!(patterns.matches(&TableName::new(schema.clone(), other.clone())), name == other);
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error(text in ".*") {
            let parsed = Patterns::parse(std::slice::from_ref(&text));
            prop_assert!(parsed.is_ok() || parsed.unwrap_err().pattern == text);
        }
    }
}
