use super::*;
use proptest::prelude::*;

const PLAN: &str = r#"
[bridge]
capacity = "100Mbit/s"
headroom = "0bit/s"
broadcast = "1Mbit/s"
[uplink]
interface = "eth0"
capacity = "100Mbit/s"
headroom = "10Mbit/s"
migration = "20Mbit/s"
[[share]]
name = "gold"
assured = "6Mbit/s"
destinations = ["192.0.2.1"]
[[router]]
name = "core"
role = "core"
interface = "eth0"
capacity = "40Mbit/s"
headroom = "0bit/s"
command = ["core"]
[[router]]
name = "edge"
role = "edge"
interface = "eth0"
command = ["edge"]
"#;

fn plan() -> NetworkPlan {
    NetworkPlan::parse(PLAN).unwrap()
}

fn book() -> Book {
    Book::default().applied(&plan(), 1).unwrap()
}

fn share(assured: u64) -> Share {
    Share {
        assured: BitRate::new(assured),
        ceil: BitRate::new(40_000_000),
        priority: Priority::Gold,
    }
}

fn vtm(name: &str, assured: u64, traffic: Traffic) -> SharePlan {
    SharePlan {
        name: name.to_owned(),
        share: share(assured),
        traffic,
    }
}

fn host(last: u8) -> Traffic {
    Traffic::Destinations(vec![[192, 0, 2, last].into()])
}

fn attached(mut book: Book, vm: &str, assured: u64) -> Result<Book, Denied> {
    let (mac, share) = (Mac::of_name(vm), share(assured));
    book.admit_port(vm, mac, &share)?;
    book.ports.push(PortEntry {
        vm: vm.to_owned(),
        port: format!("tap-{vm}"),
        mac,
        share,
        process: Process::current(),
    });
    Ok(book)
}

/// Something that is asked for.
#[derive(Clone, Debug)]
enum Step {
    Attach(u8, u64),
    Reserve(u8, u64, u8),
    Adapt(Vec<(u8, u64)>),
    Release(u8),
    Apply(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rate = 8_000_u64..40_000_000;
    let step = prop_oneof![
        (0_u8..6, rate.clone()).prop_map(|(name, rate)| Step::Attach(name, rate)),
        (0_u8..6, rate.clone(), 0_u8..8).prop_map(|(name, rate, of)| Step::Reserve(name, rate, of)),
        prop::collection::vec((0_u8..6, rate), 1..4).prop_map(Step::Adapt),
        (0_u8..6).prop_map(Step::Release),
        any::<bool>().prop_map(Step::Apply),
    ];
    prop::collection::vec(step, 0..30)
}

fn step(book: &Book, step: &Step) -> Result<Book, Denied> {
    let name = |number: &u8| format!("n{number}");
    match step {
        Step::Attach(vm, rate) => attached(book.clone(), &name(vm), *rate),
        Step::Reserve(vtm_name, rate, of) => {
            let traffic = if *of < 4 {
                host(*of + 2)
            } else {
                Traffic::Uid(u32::from(*of))
            };
            book.reserved(&vtm(&name(vtm_name), *rate, traffic), Process::current())
        }
        Step::Adapt(changes) => {
            let wanted = changes
                .iter()
                .map(|(of, rate)| Wanted::new(name(of), share(*rate)));
            book.adapted(&wanted.collect::<Vec<_>>())
        }
        Step::Release(of) => book.released(&name(of)),
        Step::Apply(with_share) => {
            let mut plan = plan();
            plan.shares.retain(|_| *with_share);
            book.applied(&plan, 2)
        }
    }
}

fn sum<'a>(shares: impl Iterator<Item = &'a Share>) -> u64 {
    shares.map(|share| share.assured.bits_per_second()).sum()
}

fn is_sound(book: &Book) {
    assert!(sum(book.ports.iter().map(|port| &port.share)) <= 99_000_000);
    assert!(sum(book.shares.iter().map(|entry| &entry.plan.share)) <= 70_000_000);
    assert!(sum(book.routed().map(|entry| &entry.plan.share)) <= 40_000_000);
    let distinct = |mut all: Vec<String>| {
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
    };
    distinct(book.names().map(str::to_owned).collect());
    distinct(
        book.shares
            .iter()
            .map(|entry| entry.class.to_string())
            .collect(),
    );
    distinct(
        book.routed()
            .filter_map(|entry| Some(entry.dscp?.to_string()))
            .collect(),
    );
    distinct(
        book.shares
            .iter()
            .flat_map(|entry| entry.plan.traffic.kinds())
            .collect(),
    );
}

proptest! {
    #[test]
    fn whatever_is_asked_for_promises_are_kept_and_nothing_is_told_apart_wrongly(steps in steps()) {
        let mut book = book();
        for asked in &steps {
            let Ok(after) = step(&book, asked) else { continue };
            is_sound(&after);
            // A class or mark that both have means the same: going from one to the other mixes nothing up.
            for new in &after.shares {
                let same = |old: &&ShareEntry| old.class == new.class || (old.dscp.is_some() && old.dscp == new.dscp);
                for old in book.shares.iter().filter(same) {
                    prop_assert_eq!(&old.plan.traffic, &new.plan.traffic);
                }
            }
            book = after;
        }
    }

    #[test]
    fn a_book_is_read_back_from_its_saved_form(steps in steps()) {
        let mut book = book();
        for asked in &steps {
            book = step(&book, asked).unwrap_or(book);
        }
        let saved = serde_json::to_string(&book).unwrap();
        prop_assert_eq!(serde_json::from_str::<Book>(&saved).unwrap(), book);
    }
}

#[test]
fn what_is_taken_is_refused_with_what_would_work() {
    let book = attached(book(), "vm", 1_000_000).unwrap();
    let refused = |plan: &SharePlan| {
        book.reserved(plan, Process::current())
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&vtm("vm", 1_000_000, host(9))).contains("adapt it"));
    assert!(refused(&vtm("new", 1_000_000, host(1))).contains("192.0.2.1 belongs to share 'gold'"));
    let too_much = refused(&vtm("new", 35_000_000, host(9)));
    assert!(
        too_much.contains("router \"core\"") && too_much.contains("fits is 34Mbit/s"),
        "{too_much}"
    );
    let too_much = refused(&vtm("new", 65_000_000, Traffic::Uid(1)));
    assert!(
        too_much.contains("eth0") && too_much.contains("fits is 64Mbit/s"),
        "{too_much}"
    );
    let mac = book
        .admit_port("other", Mac::of_name("vm"), &share(1_000_000))
        .unwrap_err();
    assert!(
        mac.to_string().contains(&Mac::of_name("other").to_string()),
        "{mac}"
    );
    let nobody = book
        .adapted(&[Wanted::new("nobody", share(8_000))])
        .unwrap_err();
    assert!(
        nobody.to_string().contains("use one of vm, gold"),
        "{nobody}"
    );
    let twice = [
        Wanted::new("vm", share(8_000)),
        Wanted::new("vm", share(9_000)),
    ];
    assert!(
        book.adapted(&twice)
            .unwrap_err()
            .to_string()
            .contains("twice")
    );
}

#[test]
fn a_bridge_with_ports_may_change_its_capacity_but_not_its_name() {
    let book = attached(book(), "vm", 50_000_000).unwrap();
    let with = |change: &dyn Fn(&mut crate::plan::BridgePlan)| {
        let mut plan = plan();
        plan.bridge.iter_mut().for_each(change);
        book.applied(&plan, 2)
    };
    assert!(with(&|bridge| bridge.capacity = BitRate::new(60_000_000)).is_ok());
    let small = with(&|bridge| bridge.capacity = BitRate::new(50_000_000)).unwrap_err();
    assert!(matches!(small, Denied::Refused(_)), "{small}");
    let renamed = with(&|bridge| bridge.name = "other".to_owned()).unwrap_err();
    assert!(
        renamed
            .to_string()
            .contains("'vm' has a port on bridge chronovisor0"),
        "{renamed}"
    );
    let cleared = book.cleared().unwrap_err().to_string();
    assert!(cleared.ends_with("`chronovisor stop vm`"), "{cleared}");
}

#[test]
fn routers_get_queues_by_mark_at_the_core_and_marks_by_host_at_the_edge() {
    let uid = vtm("user", 1_000_000, Traffic::Uid(7));
    let book = book().reserved(&uid, Process::current()).unwrap();
    let [core, edge] = [0, 1].map(|index| book.plan_of(&book.plan.routers[index]));
    assert_eq!(core.check().map_err(|e| e.to_string()), Ok(()));
    let gold = &book.shares[0];
    assert_eq!(core.shares.len(), 1, "routers cannot tell users");
    assert_eq!(core.shares[0].traffic, Traffic::Dscp(gold.dscp.unwrap()));
    let marks = edge.marking.unwrap().marks;
    assert_eq!(marks[0].dscp, gold.dscp.unwrap());
    assert_eq!(
        Traffic::Destinations(marks[0].hosts.clone()),
        gold.plan.traffic
    );
}
