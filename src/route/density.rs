//! Whether what a target gets may stay in the memory it arrived in.
//!
//! Rows share the memory of what one read brought, and a row that is kept keeps all of it: next to nothing where the
//! target gets most of what is read, and 256 KiB for a row of 50 bytes where it gets one row in thousands. A queue that
//! counts the 50 would be bounded by nothing. So what lies sparse in the stream is copied, and what lies dense is not.
//!
//! The stream is looked at in stretches. While the last one was dense (at least half of it was for the target), rows
//! are shared. A sparse stretch in which rows were shared thus follows a dense one, and both together are less than
//! five times what of them is counted. The first stretch is copied.

use crate::row::READ;

/// The shortest stretch, in bytes: long beside what one read brings, so that little is shared across its ends.
const STRETCH: usize = 4 * READ;

/// How dense a target's share of the stream lies at present.
#[derive(Debug)]
pub(super) struct Density {
    passed: usize,
    kept: usize,
    sparse: bool,
}

impl Density {
    pub(super) fn new() -> Self {
        Self { passed: 0, kept: 0, sparse: true }
    }

    /// Of the next `passed` bytes of the stream, `kept` are for the target. Tells whether they must be copied.
    pub(super) fn pass(&mut self, passed: usize, kept: usize) -> bool {
        self.passed += passed;
        self.kept += kept;
        if self.passed >= STRETCH {
            self.sparse = self.kept < self.passed / 2;
            (self.passed, self.kept) = (0, 0);
        }
        self.sparse
    }
}
