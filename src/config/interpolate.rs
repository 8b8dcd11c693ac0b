//! `${VAR}` in a text of the configuration is replaced by the environment's value; `$$` is a plain `$`.
//!
//! What the variable holds is taken as it is, not looked through again: a password may contain `${`.

/// Looks up a variable; `None` when it is not set.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a text could not be completed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InterpolateError {
    /// The environment has no such variable.
    #[error("the environment variable {0} is not set")]
    Missing(String),
    /// `${` without `}`.
    #[error("`${{` is not closed by `}}`")]
    Open,
    /// Between the braces is not a variable's name.
    #[error("`${{{0}}}` is not the name of an environment variable")]
    Name(String),
}

/// The text with its variables replaced.
///
/// # Errors
/// A variable is missing or not written as `${NAME}`.
pub(super) fn interpolate(text: &str, environment: Environment<'_>) -> Result<String, InterpolateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let (name, after) = after.split_once('}').ok_or(InterpolateError::Open)?;
            if !is_name(name) {
                return Err(InterpolateError::Name(name.to_owned()));
            }
            out.push_str(&environment(name).ok_or_else(|| InterpolateError::Missing(name.to_owned()))?);
            after
        } else {
            out.push('$');
            after
        };
    }
    out.push_str(rest);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, InterpolateError> {
        interpolate(text, &|name| match name {
            "USER" => Some("anna".to_owned()),
            "PASSWORD" => Some("a${USER}$$b".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced_once_and_their_content_is_left_alone() {
        assert_eq!(filled("u=${USER} p=${PASSWORD}.").unwrap(), "u=anna p=a${USER}$$b.");
    }

    #[test]
    fn two_dollars_are_one_and_a_lone_dollar_stays() {
        assert_eq!(filled("$${USER} 5$ $x $").unwrap(), "${USER} 5$ $x $");
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        assert_eq!(filled("${NOPE}"), Err(InterpolateError::Missing("NOPE".to_owned())));
    }

    #[test]
    fn what_is_not_a_variable_is_refused() {
        assert_eq!(filled("${USER"), Err(InterpolateError::Open));
        for text in ["${}", "${1A}", "${A-B}", "${A:-x}"] {
            assert!(matches!(filled(text), Err(InterpolateError::Name(_))), "{text}");
        }
    }
}
