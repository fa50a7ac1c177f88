//! CPU reservations for the threads of a virtual machine: what is asked for, whether the host can promise it, the
//! kernel mechanism that keeps the promise, and the account of how it was kept.
//!
//! A reservation (Q, P) is a hard constant bandwidth server (Abeni and Buttazzo, RTSS 1998): Q units of CPU time in
//! every period P and never more. The life of one:
//!
//! ```text
//! VcpuRequest --Ledger::admit--> Granted --backend::apply--> CpuReservation (read back from the kernel)
//!                   |                                            |
//!                   Refusal: which bound, by how much,           BudgetTimer ends each budget on time,
//!                   nearest that fits                            Account records what was supplied
//! ```
//!
//! This crate knows nothing of KVM, sockets or guests: a vCPU is a thread id here.

pub mod account;
pub mod admission;
pub mod alignment;
pub mod analysis;
pub mod backend;
mod bisection;
mod book;
pub mod budget;
mod capability;
pub mod cgroup;
pub mod cpus;
mod decision;
pub mod feedback;
pub mod framework;
pub mod histogram;
pub mod host;
mod host_view;
pub mod kernel;
pub mod ledger;
mod levels;
pub mod noise;
mod pages;
pub mod partition;
pub mod placement;
pub mod prepare;
mod process;
pub mod qos;
pub mod random;
mod refusal;
pub mod request;
pub mod reservation;
pub mod sim;
mod vcpu_group;
pub mod vtm;
mod zero_lag;
