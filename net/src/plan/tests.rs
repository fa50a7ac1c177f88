use super::*;

fn error(text: &str) -> String {
    NetworkPlan::parse(text).unwrap_err().to_string()
}

/// The example with its comments in force.
fn everything() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if rest.starts_with('[') || rest.contains(" = ") => format!("{rest}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

const UPLINK: &str = "[uplink]\ninterface='eth0'\ncapacity='10Mbit/s'\nheadroom='0bit/s'\n";

/// The uplink with these shares: name, what else is written.
fn shares(lines: &[(&str, &str)]) -> String {
    let share = |(name, rest): &(&str, &str)| format!("[[share]]\nname='{name}'\n{rest}\n");
    let shares: String = lines.iter().map(share).collect();
    format!("{UPLINK}{shares}")
}

#[test]
fn the_example_is_a_plan_as_it_is_and_with_all_of_it() {
    let plan = NetworkPlan::parse(EXAMPLE).unwrap();
    assert_eq!(plan.bridge.unwrap().capacity, BitRate::new(10_000_000_000));
    let plan = NetworkPlan::parse(&everything()).unwrap();
    assert_eq!((plan.shares.len(), plan.routers.len()), (1, 2));
    let core = UplinkPlan {
        interfaces: vec!["eth1".to_owned(), "eth2".to_owned()],
        capacity: BitRate::new(10_000_000),
        headroom: BitRate::new(0),
        migration: None,
    };
    assert_eq!(plan.routers[1].role, Role::Core(core));
}

#[test]
fn a_twentieth_is_head_room_unless_something_is_written() {
    let plan = NetworkPlan::parse("[uplink]\ninterface='eth0'\ncapacity='10Mbit/s'").unwrap();
    let link = plan.uplink.unwrap().link();
    assert_eq!(link.headroom, BitRate::new(500_000));
    assert_eq!(link.promisable(), BitRate::new(9_500_000));
}

#[test]
fn a_share_may_use_the_whole_link_unless_something_is_written() {
    let plan = NetworkPlan::parse(&shares(&[("gold", "assured='6Mbit/s'\nuid=1000")])).unwrap();
    assert_eq!(plan.shares[0].share.ceil, BitRate::new(10_000_000));
}

#[test]
fn bad_rates_are_named_with_key_value_and_what_would_fit() {
    are_refused(&[
        (
            "assured='0bit/s'\nuid=1",
            "share \"gold\": assured = 0bit/s",
            "8kbit/s",
        ),
        (
            "assured='101Gbit/s'\nuid=1",
            "assured = 101Gbit/s",
            "100Gbit/s",
        ),
        (
            "assured='5Mbit/s'\nceil='4Mbit/s'\nuid=1",
            "ceil = 4Mbit/s",
            "5Mbit/s",
        ),
        (
            "assured='5Mbit/s'\nceil='11Mbit/s'\nuid=1",
            "up to 11Mbit/s",
            "10Mbit/s",
        ),
        (
            "assured='11Mbit/s'\nuid=1",
            "needs 11Mbit/s of eth0",
            "nearest that fits is 10Mbit/s",
        ),
        ("assured='5Mbit'\nuid=1", "`5Mbit`", "6Mbit/s"),
        ("assured=5\nuid=1", "5", "in quotes"),
    ]);
}

#[test]
fn bad_descriptions_of_packets_are_named_with_key_value_and_what_would_do() {
    are_refused(&[
        (
            "assured='5Mbit/s'",
            "share \"gold\": destinations is missing",
            "uid",
        ),
        (
            "assured='5Mbit/s'\nuid=1\ncgroup='/a'",
            "two kinds",
            "exactly one",
        ),
        (
            "assured='5Mbit/s'\ndestinations=[]",
            "destinations = []",
            "one address",
        ),
        (
            "assured='5Mbit/s'\ndestinations=['224.0.0.1']",
            "224.0.0.1",
            "addresses of hosts",
        ),
        (
            "assured='5Mbit/s'\ndestinations=['gold.example']",
            "`gold.example`",
            "such as 192.0.2.10",
        ),
        (
            "assured='5Mbit/s'\ncgroup='/a/../b'",
            "\"/a/../b\"",
            "/jobs/gold",
        ),
        (
            "assured='5Mbit/s'\ncgroup='a\" drop'",
            "cgroup",
            "/jobs/gold",
        ),
        ("assured='5Mbit/s'\ndscp=64", "dscp = 64", "1 to 63"),
        (
            "assured='5Mbit/s'\nuid=1\npriority='silver'",
            "silver",
            "gold",
        ),
        (
            "assured='5Mbit/s'\nuid=1\nrate='1Mbit/s'",
            "unknown field `rate`",
            "assured",
        ),
    ]);
}

/// Shares, what the error names, and what it says would do.
fn are_refused(cases: &[(&str, &str, &str)]) {
    for &(rest, what, fits) in cases {
        let error = error(&shares(&[("gold", rest)]));
        assert!(
            error.contains(what) && error.contains(fits),
            "{rest}: {error}"
        );
    }
}

#[test]
fn shares_that_exclude_one_another_are_refused() {
    let both = |first: &str, second: &str| error(&shares(&[("gold", first), ("rest", second)]));
    let assured = "assured='1Mbit/s'\n";
    for packets in [
        "destinations=['10.0.0.1']",
        "uid=7",
        "cgroup='/a'",
        "dscp=9",
    ] {
        let rest = format!("{assured}{packets}");
        let error = both(&rest, &rest);
        assert!(error.contains("share \"gold\" has it already"), "{error}");
    }
    let same = error(&shares(&[
        ("gold", "assured='1Mbit/s'\nuid=1"),
        ("gold", "assured='1Mbit/s'\nuid=2"),
    ]));
    assert!(same.contains("a name of its own"), "{same}");
    let sum = both("assured='6Mbit/s'\nuid=1", "assured='5Mbit/s'\nuid=2");
    assert!(
        sum.contains("'rest' needs 5Mbit/s") && sum.contains("fits is 4Mbit/s"),
        "{sum}"
    );
}

#[test]
fn bad_links_are_named_with_key_value_and_what_would_fit() {
    let cases = [
        ("", "[bridge] is missing", "--example"),
        ("[bridge]\ncapacity='0bit/s'", "bridge.", "8kbit/s"),
        (
            "[bridge]\ncapacity='200Gbit/s'",
            "bridge.capacity = 200Gbit/s",
            "100Gbit/s",
        ),
        (
            "[bridge]\nname='br/0'\ncapacity='1Gbit/s'",
            "bridge.name = \"br/0\"",
            "letters",
        ),
        (
            "[bridge]\nname='a23456789012345'\ncapacity='1Gbit/s'",
            "a23456789012345",
            "12 characters",
        ),
        (
            "[bridge]\ncapacity='1Gbit/s'\nheadroom='1Gbit/s'",
            "bridge.headroom = 1Gbit/s",
            "less than 999Mbit/s",
        ),
        (
            "[bridge]\ncapacity='1Gbit/s'\nmtu=68",
            "bridge.mtu = 68",
            "576",
        ),
        (
            "[bridge]\ncapacity='1Gbit/s'\naddress='10.0.0.1/33'",
            "10.0.0.1/33",
            "10.77.0.1/24",
        ),
        (
            "[uplink]\ninterface=[]\ncapacity='1Gbit/s'",
            "uplink.interface = []",
            "one interface",
        ),
        (
            "[uplink]\ninterface=['a','a']\ncapacity='1Gbit/s'",
            "\"a\"",
            "once",
        ),
        ("[uplink]\ninterface=5\ncapacity='1Gbit/s'", "5", "eth0"),
        (
            "[[share]]\nname='a'\nassured='1Mbit/s'\nuid=1",
            "[uplink] is missing",
            "interface",
        ),
        ("[wifi]\n", "unknown field `wifi`", "uplink"),
    ];
    for (text, what, fits) in cases {
        let error = error(text);
        assert!(
            error.contains(what) && error.contains(fits),
            "{text}: {error}"
        );
    }
}

#[test]
fn bad_routers_are_named_with_key_value_and_what_would_fit() {
    let router = |rest: &str| {
        error(&format!(
            "{UPLINK}[[router]]\nname='r'\ninterface='eth1'\n{rest}\n"
        ))
    };
    let cases = [
        (
            "role='core'\ncommand=['x']",
            "router \"r\": capacity is missing",
            "10Mbit/s",
        ),
        (
            "role='edge'\ncapacity='1Mbit/s'\ncommand=['x']",
            "capacity = 1Mbit/s",
            "leave",
        ),
        ("role='edge'\ncommand=[]", "command = []", "ssh"),
        ("role='middle'\ncommand=['x']", "middle", "core"),
    ];
    for (rest, what, fits) in cases {
        let error = router(rest);
        assert!(
            error.contains(what) && error.contains(fits),
            "{rest}: {error}"
        );
    }
    let gold =
        "[[share]]\nname='gold'\nassured='6Mbit/s'\nceil='6Mbit/s'\ndestinations=['10.0.0.1']\n";
    let core = "[[router]]\nname='r'\nrole='core'\ninterface='eth1'\ncapacity='5Mbit/s'\nheadroom='0bit/s'\ncommand=['x']\n";
    let twice = error(&format!(
        "{UPLINK}{core}[[router]]\nname='s'\nrole='edge'\ninterface='eth2'\ncommand=['x']\n"
    ));
    assert!(
        twice.contains("router \"s\".command") && twice.contains("--run-dir"),
        "{twice}"
    );
    let sum = error(&format!("{UPLINK}{gold}{core}"));
    assert!(
        sum.contains("router \"r\"") && sum.contains("fits is 5Mbit/s"),
        "{sum}"
    );
}

#[test]
fn a_plan_is_read_back_from_its_saved_form() {
    let plan = NetworkPlan::parse(&everything()).unwrap();
    let saved = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<NetworkPlan>(&saved).unwrap(), plan);
}

#[test]
fn an_address_is_written_as_it_is_read() {
    for text in ["10.77.0.1/24", "fd00::1/64"] {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
    }
    for text in [
        "10.77.0.1",
        "10.77.0.1/",
        "10.77.0/24",
        "fd00::1/129",
        "10.77.0.1/-1",
    ] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
}
