//! What a running daemon can be told over HTTP: the way from the listener to whoever carries it out.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

/// So many wait to be carried out; who comes then waits too.
const WAITING: usize = 8;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What a reload would do.
    Preview,
    /// Read the configuration again, and take it over.
    Reload,
    /// Log by this level, or these directives, until told otherwise.
    LogLevel(String),
    /// Leave the target of this name alone until told to go on. The answer comes before it is done.
    Pause(String),
    /// Have the target of this name go on; one that waits between two attempts is tried at once.
    Resume(String),
    /// Copy all tables of the target of this name again.
    Resync(String),
    /// Do something with tables.
    Tables(TablesAsk),
}

/// What is done with tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableAction {
    /// Copy them again, beside the stream.
    Resync,
    /// Leave their changes out until told to go on.
    Pause,
    /// Go on with them, by copying them again.
    Resume,
}

/// Which tables, and what to do with them. The answer comes before it is done, and names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablesAsk {
    /// What to do.
    pub action: TableAction,
    /// Table patterns, as in the configuration.
    pub tables: Vec<String>,
    /// The target's name; `None`: of every target.
    pub target: Option<String>,
}

/// Why something asked for is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong.
    pub error: String,
    /// What helps; `None`: to ask again.
    pub hint: Option<String>,
}

/// What came of it.
pub type Answer = Result<Value, Refusal>;

/// One command, and who waits for its answer.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub ask: Ask,
    /// Who is told.
    pub answer: oneshot::Sender<Answer>,
}

/// Where commands are given; clones are the same.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Request>);

impl Commands {
    /// With what carries them out.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// Has it done.
    ///
    /// # Errors
    /// Why not.
    pub async fn give(&self, ask: Ask) -> Answer {
        let (answer, answered) = oneshot::channel();
        let stopping = || Refusal { error: "the daemon is stopping".to_owned(), hint: None };
        self.0.send(Request { ask, answer }).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}
