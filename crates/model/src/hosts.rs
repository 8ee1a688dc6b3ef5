//! The hosts that an app answers for.

use std::collections::BTreeSet;

use crate::documents::Installation;
use crate::id::{AppName, Host};
use crate::manifest::App;

/// The hosts of an app's routes that name none: `APP.ZONE`, and in the box `APP.localhost` too,
/// which browsers resolve to loopback by themselves (RFC 6761, section 6.3). A name that would be
/// longer than DNS allows is left out.
pub fn default_hosts(app: &AppName, installation: &Installation) -> Vec<Host> {
    let local = installation.in_a_box.then(|| format!("{app}.localhost"));
    std::iter::once(format!("{app}.{}", installation.zone))
        .chain(local)
        .filter_map(|name| Host::new(&name).ok())
        .collect()
}

/// Every host that the app answers for: those that its routes name, and the default ones where a
/// route names none.
pub fn all_hosts(app: &App, installation: &Installation) -> BTreeSet<Host> {
    let defaults =
        if app.uses_default_host() { default_hosts(&app.name, installation) } else { Vec::new() };
    app.hosts().into_iter().cloned().chain(defaults).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_adds_localhost() {
        let app = AppName::new("shop").unwrap();
        let mut installation = Installation {
            zone: Host::new("edge.test").unwrap(),
            in_a_box: false,
            local_upstreams: false,
        };
        let names = |installation: &Installation| {
            default_hosts(&app, installation).iter().map(Host::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&installation), ["shop.edge.test"]);
        installation.in_a_box = true;
        assert_eq!(names(&installation), ["shop.edge.test", "shop.localhost"]);
    }
}
