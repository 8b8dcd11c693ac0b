//! walferry on real servers. Every file proves one thing; its line says which.

mod support;

/// The harness itself: servers start, die, come back and never outlive a test; differences are found.
mod harness;

/// The whole way from one source to three targets of different versions, under load.
mod stream;

/// Connections: every way to authenticate and to encrypt, and every way in which that can fail, by its message.
mod connections;

/// The wire connection: flights, COPY in both directions, hostile servers.
mod wire;

/// The initial copy by itself: ranges, partitions, filters, merges; stopped, cut, taken over and started again.
mod copy;

/// The source: publications by version, slots and their snapshots, status updates, the stream's life and end.
mod source;

/// Every operation under every replica identity, and every kind of column and constraint that changes how it is
/// applied.
mod operations;

/// Every type of value, by copy and by stream, as a plain column, as a key and under REPLICA IDENTITY FULL.
mod types;

/// Every name a schema, table, column or publication can have; the widest table; a thousand tables.
mod names;

/// Partitioned tables: published by root and by leaf, laid out differently on both sides, attached and detached.
mod partitions;

/// The status page in a browser.
mod page;

/// Targets with slots of their own.
mod lanes;

/// Tables that come later, and tables that are copied again, beside the stream.
mod tables;

/// Targets that are left alone for a while.
mod pausing;

/// One target that is copied again from the beginning.
mod resync;

/// Publications as they are: what they filter, list and leave out holds for copy and stream alike.
mod publications;

/// kill -9 of daemon, source and target at random and at counted moments: nothing is lost, nothing applied twice.
mod crashes;

/// A running daemon that is told what to do, by who has its token.
mod commanded;

/// The commands beside the daemon: status, check and slot, with and without a daemon.
mod commands;

/// `walferry check` of a broken pair of servers: every fault by its code, and mended by what the findings say.
mod check;

/// Servers and networks that fail in every way: the daemon recovers by itself, and one target is no matter to another.
mod outages;

/// Every fault of every part at every moment, as a table; faults and operations at random, for as long as is wanted.
mod faults;

/// Targets that come while the stream runs; a target that is the source; a source that turns the daemon away.
mod attaching;

/// Conflicts: rows that are there already, or missing: mended or halted at, counted, never with a value in the log.
mod conflicts;

/// Changes that a target does not take, set aside there: all else goes on, and they are applied by command, in their
/// order, over nothing newer.
mod dead_letters;

/// Everything the daemon writes in a full life: no secret is in it, and no row's value.
mod secrets;

/// Changes applied many at once: the outcome is that of one by one, on every target.
mod bulk;

/// `walferry demo` as users start it: equal at the end, and nothing stays behind.
mod demo;

/// The README's way to the first stream, followed to the letter, and what it has run on source and target.
mod ten_minutes;

/// Schemas that drift apart while the stream runs: halted with the statement that helps, and on by itself after it.
mod drift;

/// Ordinary roles: no superuser anywhere, with and without the replica role; every missing right by its GRANT.
mod roles;

/// Failover of the source to a real standby: the stream goes on where nothing was lost, and halts where something was.
mod failover;

/// A changed configuration taken over while the daemon runs.
mod reload;

/// Positions that do not fit together: slots, targets and sources that are not what they were; refused, by number.
mod gaps;

/// The daemon's initial copy: killed, added to, held up; nothing is copied twice.
mod copying;

/// A transaction left open on a target: old row versions stay, and the stream goes on as it did.
mod left_open;

/// The daemon's life: signals, reloading, standing by and taking over, being replaced, an idle source.
mod life;

/// The alerts for Prometheus: what they say when, and by a real Prometheus.
mod alerts;

/// The daemon under a service manager: what it is told, and the unit for systemd.
mod service;

/// The manifests for Kubernetes, and the image: by its schemas, by the daemon they configure, and by each other.
mod kubernetes;

/// What packages hold: man pages, completions, and every file that is installed and removed.
mod packaging;

/// Memory stays bounded, whatever the size of a transaction, a row or a table.
mod memory;
