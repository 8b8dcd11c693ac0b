//! The codes of findings: what a script can match. Each has one severity and one meaning; the README's table of them is
//! made from here.

use serde::{Serialize, Serializer};

use super::finding::Severity;

/// Which servers a finding of a code can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Source,
    /// A target.
    Target,
    /// Any of them.
    Either,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
            Self::Either => "either",
        }
    }
}

macro_rules! codes {
    ($($name:ident $text:literal $side:ident $severity:ident $meaning:literal;)+) => {
        /// What was found, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)+
        }

        impl Code {
            /// All there are, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$name,)+];

            /// As it is printed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)+ }
            }

            /// Which servers it can be about.
            pub const fn side(self) -> Side {
                match self { $(Code::$name => Side::$side,)+ }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)+ }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$name => $meaning,)+ }
            }
        }
    };
}

codes! {
    ConnectionFailed "connection-failed" Either Error "The server cannot be reached or refuses the session";
    VersionTooOld "version-too-old" Either Error "The server is older than those walferry works with";
    VersionUntried "version-untried" Either Warning "The server is newer than those walferry was tried with";
    EncodingNotUtf8 "encoding-not-utf8" Either Warning "The database is not of encoding UTF8";
    CollationChanged "collation-changed" Either Warning
        "The operating system's collation is not of the version that indexes were built with";
    Pooler "pooler" Either Warning "A connection pooler or proxy stands in between";
    ClockDiffers "clock-differs" Either Warning "The server's clock and this machine's differ by more than two seconds";
    ConnectionsFew "connections-few" Either Warning
        "A connection limit of the server, the database or the role leaves too few";
    ArchiverFails "archiver-fails" Either Warning "WAL archiving fails, so that WAL gathers on the server's disk";
    PatternUnmatched "pattern-unmatched" Either Warning "A pattern of the configuration matches no published table";
    SchemaClosed "schema-closed" Either Error "The role may not use a table's schema";
    PrivilegeMissing "privilege-missing" Either Error "The role may not read or write a table";
    RowSecurity "row-security" Either Error "Row level security would hide rows of a table from the role";
    WalLevel "wal-level" Source Error "`wal_level` is not `logical`";
    StandbyCannotDecode "standby-cannot-decode" Source Error
        "The source is a standby, which before PostgreSQL 16 cannot decode";
    StandbySource "standby-source" Source Warning "The source is a standby";
    ReplicationRefused "replication-refused" Source Error "No replication connection can be had";
    ConnectionsTaken "connections-taken" Source Error "All connections are taken";
    WalSendersTaken "wal-senders-taken" Source Error "All WAL senders are taken";
    WalSendersFew "wal-senders-few" Source Warning "There are too few WAL senders for the initial copy";
    SlotsTaken "slots-taken" Source Error "All replication slots are taken";
    SlotsFew "slots-few" Source Warning "There are too few replication slots for the initial copy";
    SlotUnusable "slot-unusable" Source Error "The slot is lost, or cannot be walferry's";
    SlotAtRisk "slot-at-risk" Source Warning "The slot may lose its WAL at the next checkpoint";
    StandbyNotAwaited "standby-not-awaited" Source Info "Targets can be ahead of a standby when it is promoted";
    SlotNotFailover "slot-not-failover" Source Info "The slot is not synchronized to standbys, and lost in a failover";
    SlotUnknown "slot-unknown" Source Error "The slot exists, but no target knows it";
    SlotInUse "slot-in-use" Source Error "Another program streams from the slot";
    PreparedTransactions "prepared-transactions" Source Warning
        "Prepared transactions are open, and hold up the slot's creation";
    WalKeepUnlimited "wal-keep-unlimited" Source Info "`max_slot_wal_keep_size` is not limited";
    WalKeepSmall "wal-keep-small" Source Warning "`max_slot_wal_keep_size` is below 1 GB";
    SenderTimeoutShort "sender-timeout-short" Source Warning "`wal_sender_timeout` is below five seconds";
    IdleSlotTimeout "idle-slot-timeout" Source Warning "`idle_replication_slot_timeout` is set";
    PublicationWrong "publication-wrong" Source Error
        "The publication is missing or lacks tables, and walferry may not mend that";
    PublicationEmpty "publication-empty" Source Warning "The publication publishes no table";
    PublicationToBeMade "publication-to-be-made" Source Info "The publication does not exist; `walferry run` makes it";
    PublicationLocked "publication-locked" Source Warning
        "What the publication will hold cannot be found out: tables are locked";
    OperationsLeftOut "operations-left-out" Source Warning "The publication leaves operations out";
    PublishedByLeaf "published-by-leaf" Source Info "Partitions are published under their own names";
    IdentityMissing "identity-missing" Source Warning "A published table has no replica identity";
    IdentityFalselyFull "identity-falsely-full" Source Error
        "A partitioned table has REPLICA IDENTITY FULL, and its partitions have not";
    IdentityFullLarge "identity-full-large" Source Info "A large table has REPLICA IDENTITY FULL";
    UnloggedSource "unlogged-source" Source Warning "A chosen table is unlogged, so it is not replicated";
    SequencesNotCarried "sequences-not-carried" Source Info "Values of sequences are not replicated";
    LargeObjectsNotCarried "large-objects-not-carried" Source Info "Large objects are not replicated";
    TargetStandby "target-standby" Target Error "The target is a standby";
    TargetReadOnly "target-read-only" Target Error "`default_transaction_read_only` is on for the target's sessions";
    TargetIsSource "target-is-source" Target Error "The target is the source's own database";
    TargetTwice "target-twice" Target Error "Two targets of the configuration are the same database";
    WalferrySchema "walferry-schema" Target Error "The role may not make or use the schema `walferry`";
    ProgressGap "progress-gap" Target Error "Changes between the target's position and the slot's are gone";
    ReplicaRole "replica-role" Target Info "The role may not set `session_replication_role`";
    TablesUnseen "tables-unseen" Target Warning "The tables could not be looked at yet";
    ExtensionMissing "extension-missing" Target Error
        "An extension is missing whose types a missing table or column needs";
    ExtensionVersion "extension-version" Target Info "An extension whose types are replicated is of another version";
    TypeMissing "type-missing" Target Error "A type is missing that a missing table or column needs";
    EnumLabels "enum-labels" Target Warning "An enum lacks labels that the source's has";
    TableMissing "table-missing" Target Error "A table is missing";
    NoTable "no-table" Target Error "What has the table's name is no table";
    ColumnMissing "column-missing" Target Error "A column is missing";
    ColumnRequired "column-required" Target Error
        "A column that the source does not send is NOT NULL without a default";
    ColumnNotNull "column-not-null" Target Warning "A column is NOT NULL, and on the source it is not";
    ColumnGenerated "column-generated" Target Warning "A column is generated, and on the source it is not";
    ColumnNotSent "column-not-sent" Target Warning
        "A column is generated on the source and not sent, and here nothing computes it";
    ExpressionDiffers "expression-differs" Target Warning
        "A generated column has another expression than on the source";
    IdentityColumn "identity-column" Target Info
        "A column is an identity column on the source, and here it is not";
    DefaultMissing "default-missing" Target Info "A column has a default on the source, and here it has none";
    ColumnExtra "column-extra" Target Info "A column is not on the source, and is filled by its default";
    ColumnCollation "column-collation" Target Info "A column has another collation than on the source";
    TypeDiffers "type-differs" Target Warning "A column is of a type that may not take every value of the source's";
    TypeWider "type-wider" Target Info "A column is of another type, which takes every value of the source's";
    DatabaseCollation "database-collation" Target Info "The database sorts text otherwise than the source's";
    UniqueExtra "unique-extra" Target Warning "A unique key is not on the source";
    ConstraintExtra "constraint-extra" Target Warning "A check or exclusion constraint is not on the source";
    KeyUnindexed "key-unindexed" Target Warning "No index serves the table's replica identity";
    PartitionMissing "partition-missing" Target Warning "No partition takes rows that the source's partitions take";
    TriggersFire "triggers-fire" Target Warning "Triggers fire for every row that is applied";
    RulesApply "rules-apply" Target Warning "Rules rewrite what is applied";
    UnloggedTarget "unlogged-target" Target Error "A table is unlogged: a crash would empty it";
    RowsPresent "rows-present" Target Error "A table that is to be copied holds rows already";
    NotCopied "not-copied" Target Warning "A table is not copied, because inserts are not published";
    MergeKeyMissing "merge-key-missing" Target Error "A table cannot be merged for want of a key";
    NotMerged "not-merged" Target Warning "A table is emptied when it is copied again, where copy.mode is \"merge\"";
    TemporaryRefused "temporary-refused" Target Error "Merging needs temporary tables, which the role may not make";
    ForeignKeyCircle "foreign-key-circle" Target Error
        "Foreign keys form a circle, and the role cannot switch them off";
    ForeignKeyCascades "foreign-key-cascades" Target Error "Emptying a table would change one that is not copied";
    ForeignKeyOut "foreign-key-out" Target Warning "A foreign key refers to a table that is not replicated";
    ForeignKeyIn "foreign-key-in" Target Warning "A table that is not replicated refers to one that is";
    DiskRoom "disk-room" Target Info "How much the initial copy needs on the target's disk";
    SlotsKeepWal "slots-keep-wal" Target Warning "An inactive slot keeps all the WAL that the target writes";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The codes as the README lists them.
pub fn markdown() -> String {
    let mut text = String::from("| code | on | severity | meaning |\n|---|---|---|---|\n");
    for code in Code::ALL {
        let (side, severity) = (code.side().as_str(), code.severity().as_str());
        text.push_str(&format!("| `{}` | {side} | {severity} | {} |\n", code.as_str(), code.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_kebab_case_and_differ() {
        let texts: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for text in texts {
            let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(text.chars().all(letter) && !text.starts_with('-') && !text.ends_with('-'), "{text}");
        }
    }

    #[test]
    fn every_code_is_a_row() {
        let text = markdown();
        assert_eq!(text.lines().count(), Code::ALL.len() + 2);
        assert!(text.contains("| `wal-level` | source | error | `wal_level` is not `logical` |\n"), "{text}");
        assert_eq!(serde_json::to_string(&Code::TableMissing).unwrap(), "\"table-missing\"");
    }
}
