//! Slots of single targets: copies of a stream's slot, each for a target that is fed by itself for a while.
//!
//! A copy starts where the stream's slot is confirmed (`pg_copy_logical_replication_slot`, also while that one is in
//! use), which is at or before what the target has. Its name is made of the stream's and the target's, so a daemon that
//! comes later finds it without having been told; one whose target is not followed any more is found by the stream's
//! part of the name. Where the stream's slot is a failover slot, its copies are made such, too (`failover.rs`).

use ring::digest::{SHA256, digest};

use super::{PLUGIN, Slot, inspect, list, slot_error};
use crate::lsn::Lsn;
use crate::postgres::Client;
use crate::source::SourceError;
use crate::sql::Sql;

/// What all of a stream's names begin with: so much of the stream's own name, and what tells it from others that begin
/// alike.
fn prefix(stream: &str) -> String {
    format!("{stream:.30}_lane_{}_", short(&[stream], 4))
}

/// The name of the slot that a target of this stream is fed from when it has one of its own: at most 63 bytes.
pub fn name(stream: &str, target: &str) -> String {
    prefix(stream) + &short(&[stream, target], 8)
}

/// So many bytes of a digest, in hexadecimal digits.
fn short(parts: &[&str], bytes: usize) -> String {
    let digest = digest(&SHA256, parts.join("\0").as_bytes());
    digest.as_ref().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The slots of single targets that this stream has in the client's database, whatever has become of these targets.
///
/// # Errors
/// As [`list`].
pub async fn of(client: &Client, stream: &str) -> Result<Vec<Slot>, SourceError> {
    let (prefix, slots) = (prefix(stream), list(client).await?);
    let is_own = |slot: &Slot| slot.name.starts_with(&prefix) && slot.plugin.as_deref() == Some(PLUGIN);
    Ok(slots.into_iter().filter(|slot| is_own(slot) && !slot.temporary).collect())
}

/// Makes `name` a copy of the stream's slot as it is now; gives where it is confirmed. One that is there already stays
/// as it is, unless it is lost: it keeps more, and that may be needed by whoever has made it, another daemon perhaps.
///
/// # Errors
/// The source has no room for another slot (`max_replication_slots`), or the stream's slot is gone, lost or not
/// finished; nothing is left behind. Or somebody uses the one that is there and lost.
pub async fn ensure(client: &Client, stream: &str, name: &str) -> Result<Lsn, SourceError> {
    match inspect(client, name).await? {
        Some(there) if there.is_lost() => super::drop(client, name).await?,
        Some(Slot { confirmed_flush: Some(confirmed), .. }) => return Ok(confirmed),
        Some(_) | None => {}
    }
    let copied = client
        .execute(&Sql::new("SELECT pg_copy_logical_replication_slot($1::text, $2::text)"), &[&stream, &name])
        .await;
    copied.map_err(|error| slot_error(stream, "copying", error))?;
    let confirmed = inspect(client, name).await?.and_then(|slot| slot.confirmed_flush);
    confirmed.ok_or_else(|| SourceError::SlotMissing { slot: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_every_stream_has_a_name_of_its_own_that_a_server_takes() {
        let long = "a_stream_with_a_name_of_sixty_three_bytes_as_long_as_they_may_b";
        let mut names: Vec<String> = Vec::new();
        for stream in ["walferry", "walferry_2", long, &long[..62]] {
            for target in ["staging", "Staging", "a-b", "a_b"] {
                let name = name(stream, target);
                assert!(name.len() <= 63, "{name}");
                assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'), "{name}");
                assert!(name.starts_with(&prefix(stream)));
                names.push(name);
            }
        }
        assert!(!name(long, "t").starts_with(&prefix(&long[..62])), "streams that begin alike are told apart");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        // Servers hold such names: it never changes.
        assert_eq!(name("walferry", "staging"), "walferry_lane_453d1ae2_49a381bfcbe1b0bf");
    }
}
