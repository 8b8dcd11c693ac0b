//! The states that operators see, with the same words in metrics, status and logs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$state_doc:meta])* $state:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$state_doc])* #[serde(rename = $word)] $state,)*
        }

        impl $name {
            /// All of them, in the order in which they usually follow each other.
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$state => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

states! {
    /// What the stream from the source does.
    SourceState {
        /// Not connected yet, or connecting again.
        #[default]
        Connecting = "connecting",
        /// Another daemon holds the slot; this one takes over when it goes.
        Standby = "standby",
        /// Tables are copied; the stream starts afterwards or beside it.
        Copying = "copying",
        /// Changes are being received.
        Streaming = "streaming",
        /// Nothing is read, as every target is paused.
        Paused = "paused",
        /// Waiting after an error that may pass.
        Retrying = "retrying",
        /// Stopping: what is queued is being committed.
        Draining = "draining",
        /// Stopped until somebody acts.
        Halted = "halted",
    }
}

states! {
    /// What a target's apply worker does.
    TargetState {
        /// Not connected yet, or connecting again.
        #[default]
        Connecting = "connecting",
        /// Its tables are being copied.
        Copying = "copying",
        /// Transactions are applied as they come.
        Applying = "applying",
        /// An operator has it left alone until told to go on.
        Paused = "paused",
        /// Waiting after an error that may pass.
        Retrying = "retrying",
        /// Stopping: what is queued is being committed.
        Draining = "draining",
        /// Stopped until somebody acts; tries again slowly.
        Halted = "halted",
    }
}

states! {
    /// How far a table is on a target.
    TableState {
        /// To be copied.
        #[default]
        Pending = "pending",
        /// Being copied.
        Copying = "copying",
        /// Copied, and about to be in step with the stream.
        Copied = "copied",
        /// In step with the stream.
        Ready = "ready",
        /// Its copy has failed until somebody acts; tries again slowly.
        Failed = "failed",
        /// An operator has its changes left out; to go on, it is copied again.
        Paused = "paused",
        /// Its changes are left out because one of them was refused; to go on, it is copied again.
        Quarantined = "quarantined",
    }
}

states! {
    /// What the source says of the slot (`pg_replication_slots.wal_status`).
    SlotState {
        /// Not asked yet.
        #[default]
        Unknown = "unknown",
        /// There is none.
        Missing = "missing",
        /// What it needs is within `max_wal_size`.
        Reserved = "reserved",
        /// It needs more than that, and it is still kept.
        Extended = "extended",
        /// It may lose what it needs at the next checkpoint.
        Unreserved = "unreserved",
        /// What it needs is gone.
        Lost = "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_the_same_word_in_json_and_in_text() {
        for state in TargetState::ALL {
            assert_eq!(serde_json::to_string(state).unwrap(), format!("\"{state}\""));
        }
        assert_eq!(serde_json::from_str::<SlotState>("\"unreserved\"").unwrap(), SlotState::Unreserved);
    }
}
