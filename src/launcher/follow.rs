//! Which of the tables a target was copied are still followed: one that has left the publication is forgotten; one that
//! has been dropped and made again on the source, or was out of the publication for a while, has missed changes,
//! whenever that was, and is copied anew.

use std::collections::HashMap;

use tracing::{info, warn};

use super::error::LaunchError;
use crate::postgres::Client;
use crate::relation::TableName;
use crate::source::publication::{Gap, Publication, PublishedTable, has_stayed};
use crate::tablesync::CopyState;
use crate::tablesync::state::{self, TableState};

/// Forgets the tables that are not wanted any more, marks those that may have missed changes to be copied again, and
/// notes what the others are by now.
pub async fn review(
    client: &Client,
    stream: &str,
    target: &str,
    publication: &Publication,
    wanted: &[PublishedTable],
) -> Result<(), LaunchError> {
    let wanted: HashMap<&TableName, &PublishedTable> = wanted.iter().map(|table| (&table.name, table)).collect();
    for TableState { name, origin: noted, state, .. } in state::load(client, stream).await? {
        let Some(table) = wanted.get(&name) else {
            info!(target, table = %name, "no longer followed");
            state::forget(client, stream, &name).await?;
            continue;
        };
        if state != CopyState::Done {
            continue;
        }
        let now = table.origin(&publication.name);
        match noted.as_deref().map(|noted| has_stayed(noted, &now)) {
            // Its rows are walferry's, so whatever `existing_rows` says they may go.
            Some(Err(gap)) => {
                warn!(target, table = %name, "{}: it is copied again", reason(gap));
                state::mark_for_copy(client, stream, &name).await?;
            }
            _ if noted.as_ref() == Some(&now) => {}
            _ => state::note_origin(client, stream, &name, &now).await?,
        }
    }
    Ok(())
}

fn reason(gap: Gap) -> &'static str {
    match gap {
        Gap::MadeAnew => "was dropped and made anew on the source",
        Gap::TakenOut => "was taken out of the publication and put in again, and may have missed changes meanwhile",
        Gap::OtherPublication => {
            "was followed through a publication of another name, which may not have held the same changes"
        }
    }
}
