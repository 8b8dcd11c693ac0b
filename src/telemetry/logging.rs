//! The log: text or JSON on standard error, with a level that can change while running.
//!
//! Libraries that speak to servers print statements, parameters and notices, and so row values, at their lower levels.
//! They are capped here, whatever the configured level says.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::error::{Judged, Verdict};

/// The most that these libraries may say. tokio_postgres prints statements at debug, and at info the server's notices,
/// which may quote rows (its `connection.rs`, `simple_query.rs`).
const CAPS: [(&str, LevelFilter); 9] = [
    ("tokio_postgres", LevelFilter::WARN),
    ("postgres", LevelFilter::WARN),
    ("postgres_protocol", LevelFilter::WARN),
    ("rustls", LevelFilter::WARN),
    ("tokio_rustls", LevelFilter::WARN),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("axum", LevelFilter::INFO),
    ("mio", LevelFilter::WARN),
];

/// The log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level or directives.
    #[error("log.level \"{level}\" is not a level or a list of tracing directives")]
    Level {
        /// What was given.
        level: String,
        /// Why not.
        source: ParseError,
    },
    /// The process logs already.
    #[error("the log is set up already")]
    Taken(#[source] TryInitError),
    /// The log has gone.
    #[error("the log's level cannot be changed")]
    Gone(#[source] reload::Error),
}

impl Judged for LogError {
    fn verdict(&self) -> Verdict {
        match self {
            LogError::Level { .. } => {
                Verdict::halt("write \"info\" or \"debug\", or directives such as \"info,walferry::apply=debug\"")
            }
            LogError::Taken(_) | LogError::Gone(_) => Verdict::halt("start walferry again"),
        }
    }
}

/// Changes the level of a running log.
pub struct LogControl(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl LogControl {
    /// Sets another level; directives as in the configuration.
    ///
    /// # Errors
    /// The text is not a level; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.0(filter(level)?).map_err(LogError::Gone)
    }
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogControl")
    }
}

/// Starts the process's log on standard error; `json`: one object per line.
///
/// # Errors
/// The level is not one, or the process has a log already.
pub fn start(json: bool, level: &str) -> Result<LogControl, LogError> {
    let (subscriber, control) = subscriber(json, level, io::stderr().is_terminal(), io::stderr)?;
    subscriber.try_init().map_err(LogError::Taken)?;
    Ok(control)
}

fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(level).map_err(|source| LogError::Level { level: level.to_owned(), source })
}

fn subscriber<W>(
    json: bool,
    level: &str,
    colours: bool,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::<EnvFilter, Registry>::new(filter(level)?);
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let caps = Targets::new().with_default(LevelFilter::TRACE).with_targets(CAPS);
    let subscriber = tracing_subscriber::registry().with(level).with(caps).with(lines);
    Ok((subscriber, LogControl(Box::new(move |filter| handle.reload(filter)))))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{debug, error, info, trace, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, level: &str, log: impl FnOnce(&LogControl)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (subscriber, control) = subscriber(json, level, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || log(&control));
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_that_print_row_values_stay_quiet_whatever_the_level_says() {
        for level in ["trace", "trace,tokio_postgres=trace", "info,tokio_postgres::query=trace,tokio_postgres=debug"] {
            let text = logged(false, level, |_| {
                info!(target: "tokio_postgres::connection", "hunter2");
                debug!(target: "tokio_postgres::query", "hunter2");
                trace!(target: "rustls::client", "hunter2");
                warn!(target: "tokio_postgres::connection", "the library's warnings pass");
                info!("our own lines pass");
            });
            assert!(!text.contains("hunter2"), "{level}: {text}");
            assert!(text.contains("warnings pass") && text.contains("our own lines pass"), "{level}: {text}");
        }
    }

    #[test]
    fn the_level_can_change_while_running() {
        let text = logged(false, "warn", |control| {
            info!("one");
            control.set_level("debug").unwrap();
            debug!("two");
            control.set_level("loud=very=much").unwrap_err();
            debug!("three");
        });
        assert!(!text.contains("one") && text.contains("two") && text.contains("three"), "{text}");
    }

    #[test]
    fn json_lines_are_objects_with_their_fields() {
        let text = logged(true, "info", |_| error!(target = "staging", "halted"));
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!((line["level"].as_str(), line["message"].as_str()), (Some("ERROR"), Some("halted")));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_level_that_is_none_is_refused_with_the_way_to_write_it() {
        let Err(error) = subscriber(false, "walferry=loud", false, io::sink) else { panic!("it was accepted") };
        assert!(error.to_string().contains("walferry=loud"), "{error}");
        assert!(matches!(error.verdict(), Verdict::Halt { hint } if hint.contains("info")));
    }
}
