//! The abstract-resource framework of Duran-Limon et al. ("Using lightweight virtual machines to achieve resource
//! adaptation in middleware", IET Software): what virtual machines and virtual task machines have in common.
//!
//! A [`Resource`] stands for something physical (a CPU) or for something built on that (a thread, a vCPU, a virtual
//! machine), linked to the level below and the level above. A [`Factory`] makes them and sets the links, a higher one
//! by means of lower ones. A [`Manager`] maps or multiplexes higher resources on lower ones; a [`Scheduler`] is the
//! manager of a processing resource. A [`Machine`] processes messages; a [`Job`] is one that a scheduler serves, and
//! may itself hold lower jobs. Neither the number of levels nor the kinds of resource are fixed.
//!
//! ```text
//!            factory                         manager, scheduler             job
//! CPU        the host                        Ledger: admission              -
//! thread     vmm: Recruits                   the kernel                     a thread in its reservation
//! VM         vmm: admit, build, start        -                              RunningVm
//! process    vtm: Jobs                       vtm: round robin of a team     a process
//! VTM        vtm: VtmScheduler               vtm: dispatch table            VTM
//! ```

mod resource;

pub use resource::{Kind, Levels, Resource};

/// Makes resources of one kind, and links them to those of the level below.
pub trait Factory {
    /// What is to be made.
    type Specification;
    /// What was made. It holds its [`Resource`].
    type Product;
    /// Why it was not; nothing is left of it then.
    type Error: std::error::Error;

    /// Makes one.
    ///
    /// # Errors
    /// Says what is missing; nothing is left behind.
    fn make(&mut self, specification: Self::Specification) -> Result<Self::Product, Self::Error>;
}

/// Shares lower resources among higher ones.
pub trait Manager {
    /// What one job asks for.
    type Request: ?Sized;
    /// A change of what a job has.
    type Change;
    /// What a job is promised of one lower resource.
    type Grant;
    /// The hold on a reservation.
    type Held;
    /// By what rule it shares.
    type Policy;
    /// Why not. Nothing was changed then.
    type Error: std::error::Error;

    /// The admission test: what `job` would be granted. Changes nothing.
    ///
    /// # Errors
    /// Which bound fails, and what would fit.
    fn admit(&self, job: &str, request: &Self::Request) -> Result<Vec<Self::Grant>, Self::Error>;

    /// Admits `job` and reserves for it.
    ///
    /// # Errors
    /// As `admit`.
    fn reserve(&mut self, job: &str, request: &Self::Request) -> Result<Self::Held, Self::Error>;

    /// Takes back what `job` holds.
    ///
    /// # Errors
    /// When it cannot be taken back.
    fn expel(&mut self, job: &str) -> Result<(), Self::Error>;

    /// Expels and reserves anew, for several jobs together or for none: what one gives up is there for another. One grant
    /// per change.
    ///
    /// # Errors
    /// The first change that does not fit.
    fn adapt(&mut self, changes: &[Self::Change]) -> Result<Vec<Self::Grant>, Self::Error>;

    /// The resources that are shared, linked to what stands on them; the answer holds both.
    ///
    /// # Errors
    /// When they cannot be read.
    fn resources(&self) -> Result<Levels, Self::Error>;

    /// The rule in force.
    fn policy(&self) -> Self::Policy;

    /// Sets the rule for what is shared from now on.
    ///
    /// # Errors
    /// When what is reserved does not fit by it.
    fn set_policy(&mut self, policy: Self::Policy) -> Result<(), Self::Error>;
}

/// A manager whose resources come and go while it shares them.
pub trait Pool: Manager {
    /// Adds a resource to those that are shared.
    ///
    /// # Errors
    /// When it cannot be shared by this manager.
    fn add_resource(&mut self, resource: &Resource) -> Result<(), Self::Error>;

    /// Takes a resource away from those that are shared.
    ///
    /// # Errors
    /// When it is not there or in use.
    fn remove_resource(&mut self, resource: &Resource) -> Result<(), Self::Error>;
}

/// The manager of a processing resource: which job has it when.
pub trait Scheduler: Manager {
    /// Lets `job` have no processing time until it is resumed. Its reservation stays.
    ///
    /// # Errors
    /// When there is no such job or it cannot be stopped.
    fn suspend(&mut self, job: &str) -> Result<(), Self::Error>;

    /// Lets `job` have its share again.
    ///
    /// # Errors
    /// When there is no such job or it cannot be continued.
    fn resume(&mut self, job: &str) -> Result<(), Self::Error>;

    /// Begins to schedule, or takes the next decision, whichever the scheduler is there for.
    ///
    /// # Errors
    /// When it cannot.
    fn schedule(&mut self) -> Result<(), Self::Error>;
}

/// Receives messages and processes them, one at a time.
pub trait Machine {
    /// What it can be told.
    type Message;
    /// What it answers.
    type Reply;

    /// Processes one message.
    fn process(&mut self, message: Self::Message) -> Self::Reply;
}

/// What a scheduler serves.
pub trait Job {
    /// What it is promised.
    type Param;
    /// Why that was not changed; the old one stays.
    type Error: std::error::Error;

    /// Its place among the levels.
    fn resource(&self) -> &Resource;

    /// What it is promised.
    fn sched_param(&self) -> Self::Param;

    /// Has a change admitted, reserves it and puts it in force.
    ///
    /// # Errors
    /// When it is not admitted or cannot be put in force; the old one stays.
    fn set_sched_param(&mut self, param: Self::Param) -> Result<(), Self::Error>;
}
