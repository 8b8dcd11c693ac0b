//! How full each target's queue is, for whoever shows it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::apply::queue::Gauge;
use crate::change::TargetId;

/// One gauge per target.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<Mutex<Vec<Gauge>>>);

impl Gauges {
    /// Gauges of `targets` targets without queues.
    pub fn new(targets: usize) -> Self {
        Self(Arc::new(Mutex::new(vec![Gauge::default(); targets])))
    }

    /// A target has a new queue.
    pub fn set(&self, id: TargetId, gauge: Gauge) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[id.0] = gauge;
    }

    /// Bytes in a target's queue or being applied.
    pub fn bytes(&self, id: TargetId) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[id.0].bytes()
    }
}
