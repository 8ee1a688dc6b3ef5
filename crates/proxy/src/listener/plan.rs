//! What to do to listen on what is wanted: a pure function of what is and what is wanted.

use std::net::SocketAddr;

use super::{ListenError, Listener, Listeners};

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Not wanted any more, by place in what is: to be closed before anything is bound.
    pub(super) retire: Vec<usize>,
    /// Goes on, perhaps with other settings: place in what is, and what is wanted.
    pub(super) keep: Vec<(usize, Listener)>,
    /// To be bound; with the place in what is of the one to be closed once this is bound.
    pub(super) bind: Vec<(Listener, Option<usize>)>,
    /// Can't be done.
    pub(super) refused: Vec<ListenError>,
}

/// Plans the way from what is to what is wanted. A listener that moves to another address serves
/// at the old one until it has the new one, unless the one stands in the way of the other.
pub(super) fn plan(now: &[(Listener, SocketAddr)], wanted: &Listeners) -> Plan {
    let mut plan = Plan::default();
    let mut fresh: Vec<&Listener> = Vec::new();
    let mut seen: Vec<&Listener> = Vec::new();
    for listener in &wanted.0 {
        if let Some(what) = seen.iter().find_map(|other| clash(listener, other)) {
            let (name, address) = (listener.name.clone(), listener.address);
            plan.refused.push(ListenError::Twice { name, address, what });
            continue;
        }
        seen.push(listener);
        match now.iter().position(|(is, _)| is_same(is, listener)) {
            Some(place) => plan.keep.push((place, listener.clone())),
            None => fresh.push(listener),
        }
    }
    let gone = |place: &usize| plan.keep.iter().all(|(kept, _)| kept != place);
    let mut gone: Vec<usize> = (0..now.len()).filter(gone).collect();
    for listener in &fresh {
        let moved = gone.iter().position(|place| {
            now.get(*place).is_some_and(|(is, bound)| {
                let in_the_way = |new: &&Listener| {
                    is_on_same_transport(is, new) && overlaps(*bound, new.address)
                };
                is.name == listener.name && !fresh.iter().any(in_the_way)
            })
        });
        let replaced = moved.map(|index| gone.remove(index));
        plan.bind.push(((*listener).clone(), replaced));
    }
    plan.retire = gone;
    plan
}

/// Whether a listener is the same as before. A picked port belongs to the name.
fn is_same(is: &Listener, wanted: &Listener) -> bool {
    is.address == wanted.address
        && is_on_same_transport(is, wanted)
        && (wanted.address.port() != 0 || is.name == wanted.name)
}

fn clash(listener: &Listener, other: &Listener) -> Option<&'static str> {
    let same_address = listener.address == other.address
        && is_on_same_transport(listener, other)
        && listener.address.port() != 0;
    match listener.name == other.name {
        true => Some("name"),
        false => same_address.then_some("address"),
    }
}

fn is_on_same_transport(one: &Listener, other: &Listener) -> bool {
    one.protocol.transport() == other.protocol.transport()
}

/// Whether the kernel would refuse one address while the other is bound.
fn overlaps(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (everywhere || one.ip() == other.ip())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Protocol;
    use super::*;

    fn listener(name: &str, address: &str) -> Listener {
        Listener::new(name, address.parse().unwrap(), Protocol::Http)
    }

    fn now(listeners: &[Listener]) -> Vec<(Listener, SocketAddr)> {
        listeners.iter().map(|listener| (listener.clone(), listener.address)).collect()
    }

    #[test]
    fn a_listener_that_moves_serves_until_it_has() {
        let is = now(&[listener("a", "127.0.0.1:80"), listener("b", "127.0.0.1:81")]);
        let wanted = Listeners(vec![listener("a", "127.0.0.1:90"), listener("c", "127.0.0.1:91")]);
        let planned = plan(&is, &wanted);
        assert_eq!(planned.retire, [1]);
        let bind: Vec<_> = planned.bind.iter().map(|(new, old)| (&*new.name, *old)).collect();
        assert_eq!(bind, [("a", Some(0)), ("c", None)]);
    }

    #[test]
    fn a_listener_in_the_way_is_closed_first() {
        let is = now(&[listener("a", "127.0.0.1:80")]);
        let planned = plan(&is, &Listeners(vec![listener("a", "0.0.0.0:80")]));
        assert_eq!((planned.retire, planned.bind.len()), (vec![0], 1));
    }

    #[test]
    fn names_and_addresses_are_used_once() {
        let wanted = Listeners(vec![
            listener("a", "127.0.0.1:80"),
            listener("a", "127.0.0.1:81"),
            listener("b", "127.0.0.1:80"),
            listener("c", "127.0.0.1:0"),
            listener("d", "127.0.0.1:0"),
        ]);
        let planned = plan(&[], &wanted);
        let refused: Vec<String> = planned.refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            refused,
            [
                "a on 127.0.0.1:81: another listener has the same name",
                "b on 127.0.0.1:80: another listener has the same address"
            ]
        );
        assert_eq!(planned.bind.len(), 3);
        let quic = Listener::new("quic", "127.0.0.1:80".parse().unwrap(), Protocol::Http3);
        let planned = plan(&[], &Listeners(vec![listener("a", "127.0.0.1:80"), quic]));
        assert_eq!((planned.refused.len(), planned.bind.len()), (0, 2), "another transport's");
    }

    fn listeners() -> impl Strategy<Value = Listeners> {
        let ip = prop_oneof![Just("127.0.0.1"), Just("127.0.0.2"), Just("0.0.0.0")];
        let protocol =
            prop_oneof![Just(Protocol::Http), Just(Protocol::Https), Just(Protocol::Http3)];
        let one = ("[a-d]", ip, 0_u16..4, protocol).prop_map(|(name, ip, port, protocol)| {
            let address = format!("{ip}:{port}").parse().unwrap();
            Listener::new(&name, address, protocol)
        });
        prop::collection::vec(one, 0..6).prop_map(Listeners)
    }

    proptest! {
        #[test]
        fn every_plan_leads_to_what_is_wanted(before in listeners(), wanted in listeners()) {
            let is = now(&plan(&[], &before).bind.into_iter().map(|(new, _)| new).collect::<Vec<_>>());
            let planned = plan(&is, &wanted);
            let mut after: Vec<Listener> = planned.keep.iter().map(|(_, new)| new.clone()).collect();
            after.extend(planned.bind.iter().map(|(new, _)| new.clone()));
            // All that is wanted is there or refused, and nothing else.
            prop_assert_eq!(after.len() + planned.refused.len(), wanted.0.len());
            prop_assert!(after.iter().all(|one| wanted.0.contains(one)));
            // Everything that was is kept, closed or replaced, and that once.
            let mut places: Vec<usize> = planned.keep.iter().map(|(place, _)| *place).collect();
            places.extend(&planned.retire);
            places.extend(planned.bind.iter().filter_map(|(_, old)| *old));
            places.sort_unstable();
            prop_assert_eq!(places, (0..is.len()).collect::<Vec<_>>());
            // Done, there is nothing more to do.
            let again = plan(&now(&after), &wanted);
            prop_assert!(again.bind.is_empty() && again.retire.is_empty());
        }
    }
}
