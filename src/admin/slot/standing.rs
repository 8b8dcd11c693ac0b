//! What is to be known of a slot before it is given up: what it is, who uses it, and whether a target has been fed from
//! it. A target that cannot be asked is part of the answer: giving a slot up is what one does when things are down.

use std::time::Duration;

use futures_util::future::join_all;

use super::guard;
use crate::admin::{CommandError, servers};
use crate::apply::progress;
use crate::launcher::setup::{Setup, TargetSetup};
use crate::postgres::Client;
use crate::source::slot::{Slot, SlotUser};

/// How long a target may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
pub struct Standing {
    /// The slot; `None` when there is none.
    pub slot: Option<Slot>,
    /// Who streams from it, or holds the stream.
    pub user: Option<SlotUser>,
    /// Whether a target knows the stream.
    pub known: Known,
}

/// Whether a target has been fed from the slot, or is going to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// At least one knows the stream.
    Yes,
    /// None does: the slot is not walferry's, or left over.
    No,
    /// None of those that answered does; these did not.
    Unclear(Vec<String>),
}

impl Standing {
    /// Asks the source, then the targets.
    ///
    /// # Errors
    /// The source cannot be asked, or the slot is one that is left alone.
    pub async fn find_out(setup: &Setup, source: &Client) -> Result<Self, CommandError> {
        let slot = guard::own_slot(setup, source).await?;
        let user = guard::user(setup, source, slot.as_ref()).await?;
        Ok(Self { slot, user, known: known(setup).await })
    }

    /// As sentences; none when there is no slot.
    pub fn sentences(&self) -> Vec<String> {
        let Some(slot) = &self.slot else { return Vec::new() };
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        let used = self.user.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string);
        let mut sentences = vec![format!(
            "The slot \"{}\": plugin {}, database {}, used by {used}.",
            slot.name,
            or_unknown(&slot.plugin),
            or_unknown(&slot.database),
        )];
        match &self.known {
            Known::Yes => {}
            Known::No => sentences.push(
                "No target knows this stream: the slot may be that of another program (such as a subscription), which \
                 would lose its place."
                    .to_owned(),
            ),
            Known::Unclear(silent) => sentences
                .push(format!("No target that answers knows this stream; {} cannot be asked.", silent.join(", "))),
        }
        sentences
    }
}

/// Whether a target knows the stream.
pub async fn known(setup: &Setup) -> Known {
    let answers =
        join_all(setup.targets.iter().map(|target| tokio::time::timeout(PATIENCE, knows(setup, target)))).await;
    let mut silent = Vec::new();
    for (target, answer) in setup.targets.iter().zip(answers) {
        match answer {
            Ok(Ok(true)) => return Known::Yes,
            Ok(Ok(false)) => {}
            Ok(Err(_)) | Err(_) => silent.push(target.name.clone()),
        }
    }
    if silent.is_empty() { Known::No } else { Known::Unclear(silent) }
}

async fn knows(setup: &Setup, target: &TargetSetup) -> Result<bool, crate::postgres::PgError> {
    let client = servers::try_target(setup, target).await?;
    Ok(progress::read(&client, &setup.stream).await?.is_some())
}
