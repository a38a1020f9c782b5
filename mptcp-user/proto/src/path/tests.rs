use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn local(address: &str, interface: u32, usage: InterfaceUse) -> Local {
    let address = LocalAddress { address: ip(address), interface, mtu: 1500, backup: false };
    Local { address, usage }
}

/// Works out a policy's wishes one after the other, as if each was opened and worked at once.
struct Case {
    config: ConnectionConfig,
    client: bool,
    local: Vec<Local>,
    remote: Vec<SocketAddr>,
    subflows: Vec<Existing>,
}

impl Case {
    /// Wi-Fi (interface 1) and cellular (interface 2) here, one address there, the connection begun over Wi-Fi.
    fn new(policy: &str) -> Self {
        let config = ConnectionConfig { path_manager: policy.into(), ..ConnectionConfig::default() };
        let wifi = local("192.0.2.1", 1, InterfaceUse::Allow);
        let remote = "203.0.113.1:80".parse().unwrap();
        let mut case = Self {
            config,
            client: true,
            local: vec![wifi, local("198.51.100.1", 2, InterfaceUse::Allow)],
            remote: vec![remote],
            subflows: Vec::new(),
        };
        case.add(wifi, remote);
        case
    }

    fn add(&mut self, local: Local, remote: SocketAddr) {
        self.subflows.push(Existing {
            place: Some(self.subflows.len()),
            local: local.address.address,
            usage: local.usage,
            remote,
            opening: false,
            works: true,
            stale: false,
        });
    }

    fn view(&self) -> View<'_> {
        let initial =
            Initial { interface: 1, local: ip("192.0.2.1"), remote: "203.0.113.1:80".parse().unwrap() };
        View {
            client: self.client,
            local: &self.local,
            remote: &self.remote,
            subflows: &self.subflows,
            initial,
            limit: self.config.max_subflows,
        }
    }

    fn policy(&self) -> Box<dyn PathManager> {
        by_name(&self.config).expect("a policy of that name")
    }

    fn next(&self) -> Option<Wish> {
        self.policy().next_subflow(&self.view(), &|_, _| false)
    }

    /// All that it opens: interface, the peer's address and port, backup.
    fn all(&mut self) -> Vec<(u32, String, bool)> {
        let mut all = Vec::new();
        while let Some(wish) = self.next() {
            assert!(all.len() < 100, "{} never has enough", self.config.path_manager);
            all.push((wish.local.interface, wish.remote.to_string(), wish.backup));
            let usage = self.local.iter().find(|local| local.address == wish.local).unwrap().usage;
            self.add(Local { address: wish.local, usage }, wish.remote);
        }
        all
    }

    fn lose(&mut self, number: usize) {
        self.subflows[number].works = false;
        self.subflows[number].stale = true;
    }

    fn superfluous(&self) -> Option<usize> {
        self.policy().superfluous(&self.view())
    }
}

#[test]
fn every_policy_has_the_name_it_is_chosen_by_and_servers_open_nothing() {
    for (name, _) in POLICIES {
        let mut case = Case::new(name);
        assert_eq!(case.policy().name(), *name);
        case.client = false;
        assert_eq!(case.next(), None, "{name}");
    }
    let announces = |name, client| Case::new(name).policy().announces(client);
    assert!(announces("signal", true) && announces("signal", false));
    assert!(announces("full-mesh", false) && !announces("full-mesh", true) && !announces("none", false));
}

#[test]
fn a_full_mesh_has_each_pair_once_those_of_unused_addresses_first() {
    let mut case = Case::new("full-mesh");
    case.remote.push("203.0.113.2:80".parse().unwrap());
    case.remote.push("[2001:db8::1]:80".parse().unwrap());
    let all = case.all();
    let expected = [(2, "203.0.113.2:80"), (1, "203.0.113.2:80"), (2, "203.0.113.1:80")];
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].0, &all[0].1[..]), expected[0]);
    for (interface, remote) in expected {
        assert!(all.contains(&(interface, remote.into(), false)), "{all:?}");
    }
    case.config.max_subflows = 3;
    case.subflows.truncate(1);
    assert_eq!(case.all().len(), 2);
}

#[test]
fn a_full_mesh_opens_subflows_over_backup_interfaces_as_backups_and_preferred_ones_first() {
    let mut case = Case::new("full-mesh");
    case.local[1].usage = InterfaceUse::Backup;
    case.local.push(local("192.0.2.9", 3, InterfaceUse::Prefer));
    let remote = "203.0.113.1:80".to_owned();
    assert_eq!(case.all(), [(3, remote.clone(), false), (2, remote, true)]);
}

#[test]
fn ndiffports_opens_more_between_the_same_two_addresses() {
    let mut case = Case::new("ndiffports");
    case.remote.push("203.0.113.2:80".parse().unwrap());
    case.config.ndiffports = 4;
    assert_eq!(case.all(), vec![(1, "203.0.113.1:80".to_owned(), false); 3]);
    case.subflows.truncate(2);
    assert_eq!(case.all().len(), 2, "what is lost is replaced");
    case.config.max_subflows = 2;
    case.subflows.truncate(1);
    assert_eq!(case.all().len(), 1);
}

#[test]
fn backup_mode_keeps_one_regular_path_and_brings_it_back_as_such() {
    let mut case = Case::new("backup");
    case.local.push(local("192.0.2.200", 3, InterfaceUse::Allow));
    let remote = "203.0.113.1:80".to_owned();
    assert_eq!(case.all(), [(2, remote.clone(), true), (3, remote.clone(), true)]);
    case.subflows.remove(0);
    assert_eq!(case.all(), [(1, remote.clone(), false)]);
    case.local[1].usage = InterfaceUse::Prefer;
    case.subflows.clear();
    assert_eq!(case.all(), [(2, remote.clone(), false), (1, remote.clone(), true), (3, remote, true)]);
}

#[test]
fn single_path_opens_another_one_only_when_the_one_is_lost() {
    let mut case = Case::new("single-path");
    assert_eq!(case.next(), None);
    case.lose(0);
    let wish = case.next().expect("another one");
    assert_eq!((wish.local.interface, wish.backup), (2, false));
    case.add(case.local[1], wish.remote);
    case.subflows[1].opening = true;
    case.subflows[1].works = false;
    assert_eq!((case.next(), case.superfluous()), (None, None), "one at a time");
    case.subflows[1].opening = false;
    case.subflows[1].works = true;
    assert_eq!((case.next(), case.superfluous()), (None, Some(0)));
    case.subflows.remove(0);
    assert_eq!((case.next(), case.superfluous()), (None, None), "it stays there");
}

#[test]
fn single_path_moves_to_a_better_interface_that_comes() {
    let mut case = Case::new("single-path");
    case.local.push(local("192.0.2.200", 3, InterfaceUse::Prefer));
    let wish = case.next().expect("the better one");
    assert_eq!(wish.local.interface, 3);
    case.add(case.local[2], wish.remote);
    assert_eq!((case.next(), case.superfluous()), (None, Some(0)));
}

#[test]
//= RFC 8684 3.4.1-9 (test)
//= RFC 8684 3.9.3-3 (test)
fn what_was_refused_is_not_asked_for() {
    for name in ["full-mesh", "backup", "single-path"] {
        let mut case = Case::new(name);
        case.lose(0);
        let refused = |local: IpAddr, _: SocketAddr| local == ip("198.51.100.1");
        let wish = case.policy().next_subflow(&case.view(), &refused);
        assert_eq!(wish, None, "{name}");
    }
}
