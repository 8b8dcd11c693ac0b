//! What can go wrong with a server: in comes an ErrorResponse or a broken connection, out go words and a verdict.
//!
//! What a server says may quote row values. They are taken out here, once, so that whoever logs a [`PgError`] need not
//! think of it: DETAIL and CONTEXT are never shown, nor what functions and triggers say, and messages that may quote a
//! value lose what they quote (`redact.rs`).

use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_postgres::error::{DbError, ErrorPosition};

use super::{redact, sqlstate};
use crate::error::{Judged, Verdict};

/// An ErrorResponse or NoticeResponse. `Display` and `Debug` show severity, message and SQLSTATE, without row values:
/// see [`Self::safe_message`].
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {} (SQLSTATE {code})", self.severity, self.safe_message())]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, or a notice's level; not translated where the server is 9.6 or later.
    pub severity: String,
    /// The five characters of the SQLSTATE.
    pub code: String,
    message: String,
    /// The server's DETAIL may hold row values: shown only for classes where it cannot.
    detail: Option<String>,
    /// Advice, the server's or a function's.
    hint: Option<String>,
    /// Of the object the error is about, where the server names it.
    pub schema: Option<String>,
    /// The table, as above.
    pub table: Option<String>,
    /// The column, as above.
    pub column: Option<String>,
    /// The constraint, as above.
    pub constraint: Option<String>,
    /// Through which functions and statements it came.
    context: Option<String>,
    /// The function in the server's source.
    routine: Option<String>,
    /// Whether it points into the statement's text.
    points: bool,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse (documentation: "Error and Notice Message Fields"). Total:
    /// what is missing or cut off stays empty.
    pub fn parse(body: &[u8]) -> Self {
        let mut error = Self::empty();
        // Fields are a type byte and a zero-terminated text; a zero in the type's place ends the message.
        let mut rest = body;
        while let Some((&kind, after)) = rest.split_first() {
            let Some(end) = after.iter().position(|byte| *byte == 0).filter(|_| kind != 0) else { break };
            // Before the session's encoding is agreed on the text may be in the server's.
            let text = String::from_utf8_lossy(&after[..end]).into_owned();
            rest = &after[end + 1..];
            match kind {
                b'V' => error.severity = text,
                b'S' if error.severity.is_empty() => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                b'W' => error.context = Some(text),
                b'R' => error.routine = Some(text),
                b'P' => error.points = true,
                _ => {}
            }
        }
        error
    }

    fn empty() -> Self {
        Self {
            severity: String::new(),
            code: String::new(),
            message: String::new(),
            detail: None,
            hint: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
            context: None,
            routine: None,
            points: false,
        }
    }

    /// The first two characters of the SQLSTATE.
    pub fn class(&self) -> &str {
        self.code.get(..2).unwrap_or(&self.code)
    }

    /// The message without what may be a row's value: what a function or trigger says is not shown, and hidden is what
    /// is quoted where that may be a value.
    pub fn safe_message(&self) -> String {
        if self.is_a_functions() {
            return "a function or trigger raised an exception (its text is in the server's log)".to_owned();
        }
        if self.may_quote_values() { redact::without_values(&self.message) } else { self.message.clone() }
    }

    /// DETAIL, for the classes in which it names objects and processes, never rows.
    pub fn safe_detail(&self) -> Option<&str> {
        let safe = matches!(self.class(), "08" | "28" | "2B" | "3D" | "40" | "53" | "55" | "57" | "58");
        self.detail.as_deref().filter(|_| safe && !self.is_a_functions())
    }

    /// The server's own hint, which may name a setting; where the message quotes a value, so may the hint.
    pub fn safe_hint(&self) -> Option<&str> {
        self.hint.as_deref().filter(|_| self.class() != "22" && self.safe_message() == self.message)
    }

    fn may_quote_values(&self) -> bool {
        redact::may_quote_values(&self.code, self.routine.as_deref(), self.context.as_deref(), self.points)
    }

    /// Whether the words may be those of a function or trigger.
    pub(super) fn is_a_functions(&self) -> bool {
        redact::is_a_functions(&self.code, self.routine.as_deref(), self.context.as_deref())
    }

    /// Whether logical decoding finds no publication of that name.
    pub(super) fn lacks_publication(&self) -> bool {
        redact::in_stream(self.context.as_deref()) && self.routine.as_deref() == Some("get_publication_oid")
    }

    /// Whether the server ends the connection after saying this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Self {
            severity: error.severity().to_owned(),
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            constraint: owned(error.constraint()),
            context: owned(error.where_()),
            routine: owned(error.routine()),
            points: matches!(error.position(), Some(ErrorPosition::Original(_))),
        }
    }
}

/// As `Display`: a derived one would print DETAIL.
impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

/// What can go wrong between here and a server.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The server answered with an error.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// The connection broke.
    #[error("connection to {peer} failed")]
    Connection {
        /// `host:port/dbname`.
        peer: String,
        #[source]
        source: io::Error,
    },
    /// No session could be had: not reachable, refused, wrong certificate, wrong password, ...
    #[error("{message}")]
    Connect {
        /// Which server, which step, why.
        message: String,
        /// What to do.
        verdict: Verdict,
        /// The servers, as `host:port/dbname`, that answered with an error: they are there.
        answered: Vec<Arc<str>>,
    },
    /// The peer sent something that is not the protocol, or out of turn.
    #[error("protocol violation by {peer}: {message}")]
    Protocol {
        /// `host:port/dbname`.
        peer: String,
        /// What was wrong, without data.
        message: String,
    },
    /// Something is larger than the protocol or PostgreSQL can carry.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// What this program asked for cannot be done (a value that does not fit its parameter, a column of another type).
    #[error("{message}")]
    Usage {
        /// What, without values.
        message: String,
    },
}

impl PgError {
    /// The SQLSTATE, when the server gave one on an established connection.
    pub fn code(&self) -> Option<&str> {
        match self {
            PgError::Server(error) => Some(&error.code),
            _ => None,
        }
    }

    /// The server's error, when it is one.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            PgError::Server(error) => Some(error),
            _ => None,
        }
    }

    /// No session could be had, and no server has said why.
    pub(crate) fn no_session(message: impl Into<String>, verdict: Verdict) -> Self {
        PgError::Connect { message: message.into(), verdict, answered: Vec::new() }
    }

    /// A failure of the connection's socket.
    pub(crate) fn io(peer: &str, source: io::Error) -> Self {
        PgError::Connection { peer: peer.to_owned(), source }
    }

    /// Something that is not the protocol.
    pub(crate) fn protocol(peer: &str, message: impl Into<String>) -> Self {
        PgError::Protocol { peer: peer.to_owned(), message: message.into() }
    }

    /// What tokio-postgres reports. Its own text is cut to the kind of error: behind it may stand parameters.
    pub(crate) fn from_client(peer: &str, error: &tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return PgError::Server(Box::new(ServerError::from(server)));
        }
        if error.is_closed() {
            return PgError::io(peer, io::Error::new(io::ErrorKind::ConnectionAborted, "the connection is closed"));
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                return match io.kind() {
                    // postgres-protocol's word for a message whose fields go beyond its end; a connection's end has
                    // others.
                    io::ErrorKind::UnexpectedEof if io.to_string() == "unexpected EOF" => {
                        PgError::protocol(peer, "a message ends too early")
                    }
                    io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => PgError::protocol(peer, io.to_string()),
                    kind => PgError::io(peer, io::Error::new(kind, io.to_string())),
                };
            }
            source = cause.source();
        }
        let text = error.to_string();
        if text.starts_with("unexpected message") {
            return PgError::protocol(peer, text);
        }
        let kind = text.split(':').next().unwrap_or_default();
        PgError::Usage { message: format!("{peer}: {kind}") }
    }
}

impl Judged for PgError {
    fn verdict(&self) -> Verdict {
        match self {
            PgError::Server(error) => sqlstate::verdict(error),
            PgError::Connection { .. } => Verdict::Retry,
            PgError::Connect { verdict, .. } => verdict.clone(),
            PgError::Protocol { .. } => Verdict::halt(
                "check that the address is that of a PostgreSQL server and that nothing in between alters its data",
            ),
            PgError::TooLarge { .. } => {
                Verdict::halt("make the value smaller on the source, or leave its column out of the publication")
            }
            PgError::Usage { .. } => Verdict::halt("this is a mistake in walferry: please report it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, message: &str) -> ServerError {
        ServerError::parse(
            format!("SFEHLER\0VERROR\0C{code}\0M{message}\0DKey (id)=(4711) exists.\0Hdo it\0P15\0tt\0\0").as_bytes(),
        )
    }

    #[test]
    fn all_fields_are_read_and_the_untranslated_severity_wins() {
        let error = server("42P01", "relation \"t\" does not exist");
        assert_eq!(error.to_string(), "ERROR: relation \"t\" does not exist (SQLSTATE 42P01)");
        assert_eq!((error.safe_hint(), error.table.as_deref()), (Some("do it"), Some("t")));
    }

    #[test]
    fn row_values_are_in_neither_display_nor_debug() {
        let cases = [
            (
                "22P02",
                "invalid input syntax for type integer: \"4711\"",
                "invalid input syntax for type integer: \"…\"",
            ),
            ("22P02", "bad: \"47\"11\"", "bad: \"…\""),
            (
                "22021",
                "invalid byte sequence for encoding \"UTF8\": 0x4711 0x4711",
                "invalid byte sequence for encoding \"…\": … …",
            ),
            ("22003", "value \"4711", "value \"…"),
            (
                "P0001",
                "customer 4711 is poor",
                "a function or trigger raised an exception (its text is in the server's log)",
            ),
            (
                "23505",
                "duplicate key value violates unique constraint \"k\"",
                "duplicate key value violates unique constraint \"k\"",
            ),
        ];
        for (code, message, safe) in cases {
            let error = server(code, message);
            assert_eq!(error.safe_message(), safe);
            assert!(!format!("{error} {error:?} {:?}", error.safe_detail()).contains("4711"));
            let error = PgError::from(Box::new(error));
            assert!(!format!("{error} {error:?} {:?}", error.verdict()).contains("4711"));
        }
    }

    #[test]
    fn what_a_trigger_says_is_in_neither_message_hint_nor_detail_whatever_its_sqlstate() {
        let body = |code: &str, origin: &str| {
            format!(
                "VERROR\0C{code}\0Mcustomer 4711 is poor\0DKey 4711\0Hgive 4711 money\0st\0tcustomers\0nrich\0\
                 {origin}\0\0"
            )
        };
        let origins = [
            "Rexec_stmt_raise",
            "WPL/pgSQL function f() line 3 at RAISE",
            "WPL/pgSQL-Funktion f() Zeile 3 bei RAISE",
            "Wfonction PL/Perl « f »",
            "WPL/Python function \"f\"\0RPLy_elog_impl",
        ];
        for code in ["23514", "38000", "22000", "55000", "57014", "42704", "P0001", "P0004"] {
            for origin in origins {
                let error = ServerError::parse(body(code, origin).as_bytes());
                let shown = format!("{error} {error:?} {:?} {:?}", error.safe_detail(), sqlstate::verdict(&error));
                assert!(!shown.contains("4711"), "{shown}");
                assert!(shown.contains("raised an exception") && shown.contains(code), "{shown}");
            }
        }
        let error = ServerError::parse(body("23514", origins[0]).as_bytes());
        let hint = format!("{:?}", sqlstate::verdict(&error));
        assert!(hint.contains("table t.customers, constraint rich") && hint.contains("trigger or function"), "{hint}");
    }

    #[test]
    fn any_bytes_are_read_without_panic() {
        for body in [&b""[..], b"\0", b"M", b"Mabc", b"C\0", b"CCCCC", b"M\xff\xfe\0", "Cé\0".as_bytes()] {
            let error = ServerError::parse(body);
            let _ = (error.class().len(), error.to_string(), sqlstate::verdict(&error));
        }
    }
}
