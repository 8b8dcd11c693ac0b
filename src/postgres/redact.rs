//! Which of a server's words may be shown: in goes where an error comes from, out comes whether they are the server's
//! own; and a text without the values it quotes.
//!
//! Whoever writes a function chooses its messages, hints and SQLSTATEs (`RAISE … USING`, PL/Perl's `elog`, PL/Python's
//! `plpy.error`), and values end up in them. The server's own messages name objects; those of class 22 quote values, by
//! the quotation marks of its language (`lc_messages`).

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
/// itself), and bytes printed as `0x…` (invalid in the encoding).
pub(super) fn without_values(message: &str) -> String {
    let marks: Vec<(usize, char)> = message.char_indices().filter(|(at, mark)| is_mark(message, *at, *mark)).collect();
    let quoted = match (marks.first(), marks.last()) {
        (Some(&(first, open)), Some(&(last, close))) if first < last => {
            format!("{}{open}…{close}{}", &message[..first], &message[last + close.len_utf8()..])
        }
        (Some(&(first, open)), _) => format!("{}{open}…", &message[..first]),
        _ => message.to_owned(),
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
}
