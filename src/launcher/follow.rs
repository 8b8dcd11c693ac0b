//! Which of the tables a target was copied are still followed: one that has left the publication, or that has been
//! dropped and made again on the source, or taken out and put in again, has missed changes, whenever that was, and is
//! forgotten: so it is copied anew when it is wanted.

use std::collections::HashMap;

use tracing::{info, warn};

use super::error::LaunchError;
use crate::postgres::Client;
use crate::relation::TableName;
use crate::source::publication::{Publication, PublishedTable};
use crate::tablesync::CopyState;
use crate::tablesync::state::{self, TableState};

/// What a published table is, beside its name: its OID, and the OID of its entry in the publication.
fn origin(publication: &Publication, table: &PublishedTable) -> String {
    let entry = table.entry.map_or_else(|| "all".to_owned(), |entry| entry.to_string());
    format!("{} {entry} {}", table.oid, publication.name)
}

/// Whether a table has gone on being published since its origin was noted. Its entry in another publication says
/// nothing.
fn is_same(noted: &str, now: &str) -> bool {
    let split = |text: &str| {
        let mut fields = text.splitn(3, ' ').map(str::to_owned);
        [fields.next(), fields.next(), fields.next()]
    };
    let ([oid, entry, publication], [oid_now, entry_now, publication_now]) = (split(noted), split(now));
    oid == oid_now && (entry == entry_now || publication != publication_now)
}

/// Forgets the tables that are not wanted any more, or are others than they were.
pub async fn forget_lost(
    client: &Client,
    stream: &str,
    target: &str,
    publication: &Publication,
    wanted: &[PublishedTable],
) -> Result<(), LaunchError> {
    let wanted: HashMap<&TableName, &PublishedTable> = wanted.iter().map(|table| (&table.name, table)).collect();
    for TableState { name, origin: noted, .. } in state::load(client, stream).await? {
        match (wanted.get(&name), noted) {
            (None, _) => info!(target, table = %name, "no longer followed"),
            (Some(table), Some(noted)) if !is_same(&noted, &origin(publication, table)) => {
                warn!(target, table = %name, "was made anew or out of the publication meanwhile: it is copied again");
            }
            _ => continue,
        }
        state::forget(client, stream, &name).await?;
    }
    Ok(())
}

/// Notes the origin of the tables that are copied.
pub async fn note(
    client: &Client,
    stream: &str,
    publication: &Publication,
    wanted: &[PublishedTable],
) -> Result<(), LaunchError> {
    let wanted: HashMap<&TableName, &PublishedTable> = wanted.iter().map(|table| (&table.name, table)).collect();
    for TableState { name, origin: noted, state, .. } in state::load(client, stream).await? {
        let Some(origin) = wanted.get(&name).map(|table| origin(publication, table)) else { continue };
        if state == CopyState::Done && noted.as_ref() != Some(&origin) {
            state::note_origin(client, stream, &name, &origin).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_the_same_while_it_keeps_its_oid_and_its_entry() {
        assert!(is_same("7 9 p", "7 9 p"));
        assert!(!is_same("7 9 p", "8 9 p"), "made anew");
        assert!(!is_same("7 9 p", "7 10 p"), "taken out and put in again");
        assert!(is_same("7 all p q", "7 all p q"));
        assert!(is_same("7 9 p", "7 11 q"), "another publication is configured");
    }
}
