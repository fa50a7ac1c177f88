//! Resources and the links between their levels.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What kind of thing a resource is. Anyone may add one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(&'static str);

impl Kind {
    /// A physical CPU.
    pub const CPU: Self = Self("CPU");
    /// A thread of the host's kernel, the virtual processor that others are built on.
    pub const THREAD: Self = Self("thread");
    /// A CPU as a guest sees it.
    pub const VCPU: Self = Self("vCPU");
    /// A virtual machine.
    pub const VM: Self = Self("VM");
    /// A process with its threads and children.
    pub const PROCESS: Self = Self("process");
    /// A virtual task machine: a team of processes.
    pub const VTM: Self = Self("VTM");

    /// A kind of another name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Something physical, or something built on resources of a lower level. Cloning gives another handle to the same one.
///
/// It holds what it stands on; what stands on it is only known to it, and unknown again once that is gone.
#[derive(Clone)]
pub struct Resource(Arc<Node>);

/// Resources of all levels of a manager at one time. What stands on others is there as long as this is.
#[derive(Clone, Debug, Default)]
pub struct Levels {
    /// The lowest level: what is shared.
    pub lowest: Vec<Resource>,
    /// The highest level: whom it is shared among.
    pub highest: Vec<Resource>,
}

struct Node {
    kind: Kind,
    name: Cow<'static, str>,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    below: Vec<Resource>,
    above: Vec<Weak<Node>>,
}

impl Resource {
    /// A resource that stands on `below`; a physical one stands on nothing.
    #[must_use]
    pub fn upon<'a>(
        kind: Kind,
        name: impl Into<Cow<'static, str>>,
        below: impl IntoIterator<Item = &'a Self>,
    ) -> Self {
        let resource = Self(Arc::new(Node {
            kind,
            name: name.into(),
            links: Mutex::default(),
        }));
        for lower in below {
            resource.stand_on(lower);
        }
        resource
    }

    /// A physical CPU; without a number, what stands for any of them.
    #[must_use]
    pub fn cpu(number: Option<u32>) -> Self {
        let name = number.map_or(Cow::Borrowed("any"), |cpu| cpu.to_string().into());
        Self::upon(Kind::CPU, name, [])
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Its name among its kind.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Adds `lower` to what it stands on. Standing on itself, directly or by others, is not possible: then and if the link
    /// is there already nothing is changed. Whether there is a new link.
    pub fn stand_on(&self, lower: &Self) -> bool {
        let mut stands_on_self = false;
        lower.descend(&mut |_, resource| stands_on_self |= resource == self);
        if stands_on_self || self.below().contains(lower) {
            return false;
        }
        self.links(|links| links.below.push(lower.clone()));
        lower.links(|links| links.above.push(Arc::downgrade(&self.0)));
        true
    }

    /// Takes `lower` from what it stands on. Whether it was there.
    pub fn leave(&self, lower: &Self) -> bool {
        let found = self.links(|links| {
            let at = links.below.iter().position(|below| below == lower)?;
            Some(links.below.remove(at))
        });
        lower.links(|links| {
            links
                .above
                .retain(|above| above.as_ptr() != Arc::as_ptr(&self.0))
        });
        found.is_some()
    }

    /// The level below: what it stands on.
    #[must_use]
    pub fn below(&self) -> Vec<Self> {
        self.links(|links| links.below.clone())
    }

    /// The level above: what stands on it.
    #[must_use]
    pub fn above(&self) -> Vec<Self> {
        self.links(|links| {
            links.above.retain(|above| above.strong_count() > 0);
            links
                .above
                .iter()
                .filter_map(Weak::upgrade)
                .map(Self)
                .collect()
        })
    }

    /// Visits it and all it stands on, each with the number of levels in between, the higher before the lower.
    pub fn descend(&self, visit: &mut impl FnMut(usize, &Self)) {
        self.walk(0, &Self::below, visit);
    }

    /// Visits it and all that stands on it, each with the number of levels in between, the lower before the higher.
    pub fn ascend(&self, visit: &mut impl FnMut(usize, &Self)) {
        self.walk(0, &Self::above, visit);
    }

    fn walk(
        &self,
        depth: usize,
        next: &impl Fn(&Self) -> Vec<Self>,
        visit: &mut impl FnMut(usize, &Self),
    ) {
        visit(depth, self);
        for resource in next(self) {
            resource.walk(depth + 1, next, visit);
        }
    }

    /// Links are whole between any two statements: a panic elsewhere leaves them so.
    fn links<T>(&self, work: impl FnOnce(&mut Links) -> T) -> T {
        work(&mut self.0.links.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The same one, not one that looks the same.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Resource {}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.kind, self.0.name)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} upon {:?}", self.below())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(walk: impl FnOnce(&mut dyn FnMut(usize, &Resource))) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&mut |depth, resource| lines.push(format!("{depth} {resource}")));
        lines
    }

    #[test]
    fn levels_are_walked_down_to_the_cpu_and_up_to_the_virtual_machine() {
        let cpu = Resource::upon(Kind::CPU, "1", []);
        let threads = ["71", "72"].map(|tid| Resource::upon(Kind::THREAD, tid, [&cpu]));
        let vm = Resource::upon(Kind::VM, "a", &threads);
        assert_eq!(
            walked(|mut visit| vm.descend(&mut visit)),
            ["0 VM a", "1 thread 71", "2 CPU 1", "1 thread 72", "2 CPU 1"]
        );
        assert_eq!(
            walked(|mut visit| cpu.ascend(&mut visit)),
            ["0 CPU 1", "1 thread 71", "2 VM a", "1 thread 72", "2 VM a"]
        );
    }

    #[test]
    fn what_is_gone_stands_on_nothing_any_more() {
        let cpu = Resource::upon(Kind::CPU, "1", []);
        let thread = Resource::upon(Kind::THREAD, "71", [&cpu]);
        assert_eq!(cpu.above(), std::slice::from_ref(&thread));
        drop(thread);
        assert!(cpu.above().is_empty());
    }

    #[test]
    fn a_resource_moves_from_one_to_another() {
        let cpus = ["0", "1"].map(|cpu| Resource::upon(Kind::CPU, cpu, []));
        let thread = Resource::upon(Kind::THREAD, "71", &cpus[..1]);
        assert!(thread.stand_on(&cpus[1]));
        assert!(thread.leave(&cpus[0]));
        assert!(!thread.leave(&cpus[0]));
        assert!(cpus[0].above().is_empty());
        assert_eq!(cpus[1].above(), [thread]);
    }

    #[test]
    fn nothing_stands_on_itself() {
        let cpu = Resource::upon(Kind::CPU, "1", []);
        let thread = Resource::upon(Kind::THREAD, "71", [&cpu]);
        assert!(!cpu.stand_on(&thread));
        assert!(!cpu.stand_on(&cpu));
        assert!(!thread.stand_on(&cpu), "the link is there already");
        assert_eq!(cpu.above().len(), 1);
    }
}
