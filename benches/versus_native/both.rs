//! The two ways, and what is measured of both in a round.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Native,
    Walferry,
}

impl Way {
    pub const BOTH: [Self; 2] = [Self::Native, Self::Walferry];

    /// Its databases on the target server.
    pub fn databases(self, count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("{self}_{number}")).collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Walferry => "walferry",
        })
    }
}

/// A round: one measurement of each way.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Both<T> {
    /// Whose turn came first.
    pub first: Way,
    pub native: T,
    pub walferry: T,
}

impl<T> Both<T> {
    /// Measures one way after the other; which is first changes from round to round.
    pub async fn in_turn(round: u32, mut measure: impl AsyncFnMut(Way) -> Result<T>) -> Result<Self> {
        if round % 2 == 1 {
            let native = measure(Way::Native).await?;
            Ok(Self { first: Way::Native, native, walferry: measure(Way::Walferry).await? })
        } else {
            let walferry = measure(Way::Walferry).await?;
            Ok(Self { first: Way::Walferry, native: measure(Way::Native).await?, walferry })
        }
    }

    pub fn of(&self, way: Way) -> &T {
        match way {
            Way::Native => &self.native,
            Way::Walferry => &self.walferry,
        }
    }
}
