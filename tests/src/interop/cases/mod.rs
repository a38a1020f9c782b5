//! All scenarios with their variants, by theme.

mod announcements;
mod changes;
mod failures;
mod fallback;
mod joins;
mod middleboxes;
mod priorities;
mod transfers;
mod waiting;

use super::case::{Case, Row};
use super::world::World;
use anyhow::Result;

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [
        transfers::ROWS,
        joins::ROWS,
        announcements::ROWS,
        changes::ROWS,
        priorities::ROWS,
        failures::ROWS,
        fallback::ROWS,
        waiting::ROWS,
        middleboxes::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// All cases.
pub fn all() -> impl Iterator<Item = Case> {
    rows().flat_map(|row| row.variants.iter().map(move |&variant| Case { row, variant }))
}

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;

/// Links without an emulator.
const ONE: &[&[&str]] = &[&[]];
const TWO: &[&[&str]] = &[&[], &[]];
const THREE: &[&[&str]] = &[&[], &[], &[]];
/// Links with a delay of 5 ms in each direction.
const TWO_SLOW: &[&[&str]] = &[&["--both", "delay=5ms"], &["--both", "delay=5ms"]];

/// Connects and greets; the server announces its second address, if there is one.
fn begin(world: &mut World) -> Result<()> {
    world.limits(8, 8)?;
    let others = world.lab.links() > 1;
    if world.we_connect() && others {
        world.endpoint(2, "signal")?;
    }
    world.connect()?;
    world.greet()
}
