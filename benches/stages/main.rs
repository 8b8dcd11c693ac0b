//! What each stage of the pipeline costs by itself: time, and allocations. Needs no server.
//!
//! ```text
//! cargo bench --bench stages                    # all
//! cargo bench --bench stages -- decode encode   # those whose names match; `--help` tells the rest
//! ```
//!
//! An iteration is 1,000 rows, so `alloc` of 1000 is one allocation a row; `item/s` are rows. (Of `copy` it is 8 MiB,
//! and `alloc` is for all of them.) What goes in is made before the time is taken, and what comes out is dropped after.
//!
//! | file | stage |
//! |---|---|
//! | `decode.rs` | the source's messages, from bytes to values |
//! | `assemble.rs` | messages to a transaction |
//! | `route.rs` | a target's share of it |
//! | `plan.rs` | a batch to groups by net effect |
//! | `encode.rs` | groups to statements' parameters and lines of COPY |
//! | `copy.rs` | the initial copy's bytes, from the source's connection to the target's |
//! | `cases.rs`, `messages.rs` | the rows and operations measured; pgoutput's messages of them |

mod assemble;
mod cases;
mod copy;
mod decode;
mod encode;
mod messages;
mod plan;
mod route;

use divan::AllocProfiler;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

/// Without `--bench`, as when all targets are run as tests, everything runs once and nothing is measured.
fn main() {
    divan::main();
}
