//! Virtual task machines: groups of jobs with a share of the CPU, without a guest (Duran-Limon et al., IET Software).
//!
//! A VTM is promised an execution time in every period. When each of them runs is decided beforehand by a dispatch
//! [`Table`], which is all that there is here: pure, without jobs and without a clock.

mod layout;
mod request;
pub mod table;

pub use request::{Need, Quantity, Vtm};
pub use table::{Placement, Policy, Table, TableError};
