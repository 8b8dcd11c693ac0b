//! Which of a server's words may be shown: in goes where an error comes from, out comes whether they are the server's
//! own; and a text without the values it quotes.
//!
//! Whoever writes a function chooses its messages, hints and SQLSTATEs (`RAISE … USING`, PL/Perl's `elog`, PL/Python's
//! `plpy.error`), and values end up in them. The server's own messages name objects; those of class 22 quote values, by
//! the quotation marks of its language (`lc_messages`), and so do those of other classes where a value is text of a
//! syntax of its own (`tsquery`, `jsonpath`) or an object's name (`regclass`).

/// Routines of the server whose messages name objects and processes only, through whatever function they are reached.
const NAMES_OBJECTS: [&str; 8] = [
    "DeadLockReport",
    "ExecConstraints",
    "ProcessInterrupts",
    "ReportNotNullViolationError",
    "_bt_check_unique",
    "aclcheck_error",
    "check_exclusion_or_unique_constraint",
    "ri_ReportViolation",
];

/// Routines of the server that say what they do of objects that walferry itself has named, or of a table's rows as
/// such.
const NAMES_NO_VALUES: [&str; 6] = [
    "RelationGetBufferForTuple",
    "ReplicationSlotAcquire",
    "_bt_check_third_page",
    "assignable_custom_variable_name",
    "find_option",
    "get_publication_oid",
];

/// SQLSTATEs of what a statement, or a value, may say wrongly: no such object, or not its syntax.
const SAID_WRONGLY: [&str; 8] = ["3F000", "42601", "42602", "42704", "42725", "42883", "42P01", "54000"];

/// Whether the server's own message may quote a value, by its SQLSTATE, its routine, its context, and whether it points
/// into the statement's text: that has no values in it.
pub(super) fn may_quote_values(code: &str, routine: Option<&str>, context: Option<&str>, points: bool) -> bool {
    let names = |routine| NAMES_OBJECTS.contains(&routine) || NAMES_NO_VALUES.contains(&routine);
    match code.get(..2) {
        Some("22") => true,
        // Constraints are named, and values are in DETAIL.
        Some("23") => false,
        _ if routine.is_some_and(names) => false,
        _ => context.is_some_and(is_about_a_value) || (!points && SAID_WRONGLY.contains(&code)),
    }
}

/// Whether an error's text may be a function's, by its SQLSTATE, its routine (a name in the server's source, in no
/// language) and its context.
pub(super) fn is_a_functions(code: &str, routine: Option<&str>, context: Option<&str>) -> bool {
    let routine = routine.unwrap_or_default();
    if NAMES_OBJECTS.contains(&routine) {
        return false;
    }
    let languages = ["exec_stmt_raise", "exec_stmt_assert", "PLy_", "plperl_", "pltcl_", "throw_tcl_error"];
    languages.iter().any(|language| routine.starts_with(language))
        // Raised by PL/pgSQL without a SQLSTATE of its own; failures of other languages.
        || matches!(code.get(..2), Some("P0" | "38"))
        || context.is_some_and(|context| !is_own(context))
}

/// Whether the error was met while a value was read.
fn is_about_a_value(context: &str) -> bool {
    let line = context.lines().next().unwrap_or_default();
    ["COPY ", "JSON"].iter().any(|start| line.starts_with(start)) || is_parameter(line)
}

/// Whether the context is that of the statement itself. What is not known is taken for a function's.
fn is_own(context: &str) -> bool {
    // The innermost comes first, each on a line of its own but for what it quotes.
    let line = context.lines().next().unwrap_or_default();
    // COPY and JSON are so in most languages; "while updating tuple …".
    ["COPY ", "JSON", "while "].iter().any(|start| line.starts_with(start)) || is_stream(line) || is_parameter(line)
}

/// `slot "…", output plugin "pgoutput", in the change callback, …`, in any language.
fn is_stream(line: &str) -> bool {
    line.contains("pgoutput")
}

/// Whether the error comes out of logical decoding.
pub(super) fn in_stream(context: Option<&str>) -> bool {
    context.and_then(|context| context.lines().next()).is_some_and(is_stream)
}

/// `unnamed portal parameter $2 = …`, in any language, and no function's name or SQL that has such a parameter in it.
fn is_parameter(line: &str) -> bool {
    let Some(at) = line.find('$') else { return false };
    let (before, after) = (&line[..at], &line[at + 1..]);
    after.starts_with(|c: char| c.is_ascii_digit())
        && !before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && !["SQL", "PL/", "(", "\""].iter().any(|sign| before.contains(sign))
}

/// The text with everything from the first to the last quotation mark of any language hidden (a value may hold marks
/// itself), else what stands behind a colon (`operator does not exist: …`); and bytes printed as `0x…` (invalid in the
/// encoding).
pub(super) fn without_values(message: &str) -> String {
    let marks: Vec<(usize, char)> = message.char_indices().filter(|(at, mark)| is_mark(message, *at, *mark)).collect();
    let quoted = match (marks.first(), marks.last()) {
        (Some(&(first, open)), Some(&(last, close))) if first < last => {
            format!("{}{open}…{close}{}", &message[..first], &message[last + close.len_utf8()..])
        }
        (Some(&(first, open)), _) => format!("{}{open}…", &message[..first]),
        _ => match message.find([':', '：']) {
            Some(colon) => format!("{}: …", message[..colon].trim_end()),
            None => message.to_owned(),
        },
    };
    let words = quoted.split(' ').map(|word| if word.contains("0x") { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn is_mark(text: &str, at: usize, mark: char) -> bool {
    match mark {
        // An apostrophe within a word is none.
        '\'' | '’' => {
            let before = text[..at].chars().next_back().is_some_and(char::is_alphabetic);
            let after = text[at + mark.len_utf8()..].chars().next().is_some_and(char::is_alphabetic);
            !(before && after)
        }
        _ => "\"`«»‹›„“”‟‚‘‛「」『』《》〈〉＂".contains(mark),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_by_the_marks_of_any_language() {
        let cases = [
            ("invalid input syntax for type integer: \"4711\"", "invalid input syntax for type integer: \"…\""),
            ("ungültige Eingabesyntax für Typ integer: »4711«", "ungültige Eingabesyntax für Typ integer: »…«"),
            ("Wert »4711« ist außerhalb des Bereichs", "Wert »…« ist außerhalb des Bereichs"),
            (
                "syntaxe en entrée invalide pour le type integer : « 4711 »",
                "syntaxe en entrée invalide pour le type integer : «…»",
            ),
            (
                "la valeur « l'an 4711 » est en dehors de l'intervalle du type integer",
                "la valeur «…» est en dehors de l'intervalle du type integer",
            ),
            ("valor '4711' no válido", "valor '…' no válido"),
            ("类型integer的无效输入语法：“4711”", "类型integer的无效输入语法：“…”"),
            ("bad: \"47\"11\"", "bad: \"…\""),
            ("value \"4711", "value \"…"),
            ("encodage « UTF8 » :\u{a0}0x4711 0x4711", "encodage «…» … …"),
            ("division by zero", "division by zero"),
            ("date field value out of range: 4711-13-45", "date field value out of range: …"),
            ("l'opérateur n'existe pas : 4711", "l'opérateur n'existe pas: …"),
            ("操作符不存在： 4711", "操作符不存在: …"),
        ];
        for (message, safe) in cases {
            assert_eq!(without_values(message), safe);
        }
    }

    #[test]
    fn what_a_function_says_is_told_from_what_the_server_says() {
        let functions = [
            ("23514", "exec_stmt_raise", None),
            ("P0001", "", None),
            ("38000", "", None),
            ("23514", "PLy_elog_impl", Some("PL/Python function \"f\"")),
            ("23514", "elsewhere", Some("PL/pgSQL function f() line 3 at RAISE\nunnamed portal with parameters: $1")),
            ("23514", "elsewhere", Some("PL/pgSQL-Funktion f$1() Zeile 3 bei RAISE")),
            ("42601", "scanner_yyerror", Some("SQL-Anweisung »UPDATE t SET a = $1 WHERE«")),
            ("23514", "elsewhere", Some("f() LINE 2: throw '$1'")),
            ("23514", "elsewhere", Some("remote SQL command: INSERT INTO t VALUES ($1)")),
            ("23514", "elsewhere", Some("whatever it is")),
        ];
        for (code, routine, context) in functions {
            assert!(is_a_functions(code, Some(routine), context), "{code} {routine} {context:?}");
        }
        let own = [
            ("23505", None),
            ("22P02", Some("COPY t, Zeile 1, Spalte a: »PL/pgSQL«")),
            ("22P02", Some("unnamed portal parameter $2 = '4711'\nPL/pgSQL function f() line 3")),
            ("22P02", Some("Parameter $2 des unbenannten Portals")),
            ("22P02", Some("未命名的portal参数$2")),
            ("40P01", Some("while updating tuple (0,1) in relation \"t\"")),
            ("42704", Some("Slot »s«, Output-Plugin »pgoutput«, im Callback change, zugehörige LSN 0/1")),
        ];
        for (code, context) in own {
            assert!(!is_a_functions(code, Some("elsewhere"), context), "{code} {context:?}");
        }
        let inside = Some("PL/pgSQL function audit() line 3 at SQL statement");
        assert!(!is_a_functions("23505", Some("_bt_check_unique"), inside));
    }

    #[test]
    fn a_value_that_is_text_of_a_syntax_of_its_own_or_a_name_is_told_from_what_a_statement_says() {
        let parameter = Some("unnamed portal parameter $1 = '...'");
        let of_values = [
            ("22P02", "pg_strtoint32", None, false),
            ("42601", "makepol", None, false),
            ("42601", "prssyntaxerror", parameter, false),
            ("42P01", "RangeVarGetRelidExtended", Some("COPY t, line 1, column a: \"4711\""), false),
            ("42P01", "RangeVarGetRelidExtended", None, false),
            ("42704", "get_role_oid", None, false),
            ("54000", "pushValue", None, false),
            // An extension's type.
            ("XX000", "geometry_in", parameter, false),
        ];
        for (code, routine, context, points) in of_values {
            assert!(may_quote_values(code, Some(routine), context, points), "{code} {routine} {context:?}");
        }
        let of_statements = [
            ("42P01", "parserOpenTable", None, true),
            ("42703", "CopyGetAttnums", None, false),
            ("42704", "ReplicationSlotAcquire", None, false),
            ("42704", "get_publication_oid", None, false),
            ("42501", "aclcheck_error", None, false),
            ("23505", "_bt_check_unique", Some("COPY t, line 1"), false),
            ("54000", "_bt_check_third_page", Some("COPY t, line 1"), false),
            ("55P03", "LockAcquireExtended", None, false),
        ];
        for (code, routine, context, points) in of_statements {
            assert!(!may_quote_values(code, Some(routine), context, points), "{code} {routine} {context:?}");
        }
    }
}
