//! What the proxy serves, built from documents and from what is warm. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use selvedge_model::documents::Installation;
use selvedge_model::manifest::Graphql;
use selvedge_model::{
    Activation, App, EnvironmentName, Epoch, Generation, Host, Release, Route, ServiceName, SiteId,
    hosts,
};
use selvedge_proxy::graphql::Identity;
use selvedge_proxy::{
    AppView, CacheScope, Delivery, EpochView, QueryRules, RouteTable, RouteView, Target,
};

use crate::desired::{EpochKey, selected};
use crate::documents::AppKey;

/// The view of a release whose services are all at hand in `targets`.
pub(crate) fn epoch_view(
    environment: &EnvironmentName,
    epoch: Epoch,
    release: &Release,
    targets: &BTreeMap<ServiceName, Target>,
) -> EpochView {
    let (encode, esi) = (Arc::default(), Arc::default());
    let mut routes: Vec<RouteView> = release
        .app
        .routes
        .iter()
        .filter_map(|route| {
            let target = targets.get(&route.service)?.clone();
            let response_headers = route
                .response_headers
                .iter()
                .filter_map(|(name, value)| {
                    Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
                })
                .collect();
            Some(RouteView {
                hosts: route.hosts.iter().cloned().collect(),
                path: route.path.clone(),
                service: Some(route.service.clone()),
                rewrite: route.rewrite.clone(),
                cache: cache_scope(environment, release, route, &target),
                delivery: Delivery {
                    encode: Some(Arc::clone(&encode)),
                    esi: route.esi.then(|| Arc::clone(&esi)),
                    graphql: route.graphql.as_ref().map(graphql).map(Arc::new),
                },
                response_headers,
                target,
            })
        })
        .collect();
    routes.extend(release.app.redirects.iter().map(|redirect| RouteView {
        hosts: redirect.hosts.iter().cloned().collect(),
        path: redirect.from.clone(),
        service: None,
        rewrite: None,
        cache: None,
        delivery: Delivery::default(),
        response_headers: Vec::new(),
        target: Target::Redirect(Arc::new(redirect.clone())),
    }));
    routes.sort_by_key(|route| std::cmp::Reverse(route.path.precedence()));
    let table = RouteTable { force_https: release.app.force_https, routes };
    EpochView { epoch, release: release.id, table }
}

/// Whose stored responses a route's are among: those of services of the same shape, asked in the
/// same way. Files are at hand and need no cache.
fn cache_scope(
    environment: &EnvironmentName,
    release: &Release,
    route: &Route,
    target: &Target,
) -> Option<Arc<CacheScope>> {
    if !matches!(target, Target::Workload(_)) {
        return None;
    }
    let app = release.app.name.as_str().as_bytes();
    let shape = release.shape(&route.service)?;
    let rewrite = route.rewrite.as_ref().map(|rewrite| format!("{} {rewrite}", route.path));
    let mut components = vec![
        environment.as_str().as_bytes(),
        shape.as_bytes(),
        rewrite.as_deref().unwrap_or_default().as_bytes(),
    ];
    // An app sends pages with gaps only where it is told that they are filled.
    components.extend(route.esi.then_some(&b"esi"[..]));
    // Keys of answers hold what a request says of who asks, and not where that stood.
    let identity = route.graphql.as_ref().map(serde_json::to_vec).transpose().ok()?;
    components.extend(identity.as_deref());
    Some(Arc::new(CacheScope::new(app, &components, QueryRules::default())))
}

/// What answers depend on. Names that the proxy can't use are none that a file can have.
fn graphql(form: &Graphql) -> selvedge_proxy::graphql::Config {
    let headers = form.headers.iter().filter_map(|name| name.parse().ok()).map(Identity::Header);
    let cookies = form.cookies.iter().cloned().map(Identity::Cookie);
    selvedge_proxy::graphql::Config {
        identity: headers.chain(cookies).collect(),
        ignore_other_cookies: form.ignore_other_cookies,
        ..Default::default()
    }
}

/// What the proxy may answer for an app: the shown epochs, less those older than `floor`, which is
/// the oldest that the site may still serve because its users have seen that one.
pub(crate) fn app_view(
    app: &AppKey,
    activation: Option<Arc<Activation>>,
    floor: Option<Epoch>,
    shown: &BTreeMap<EpochKey, Arc<EpochView>>,
) -> AppView {
    let epochs = shown
        .iter()
        .filter(|(key, _)| &key.app == app && floor.is_none_or(|floor| key.epoch >= floor))
        .map(|(key, view)| (key.epoch, Arc::clone(view)))
        .collect();
    AppView { app: app.0.clone(), environment: app.1.clone(), activation, epochs }
}

/// The epoch that a client without a pin is answered with: what the activation selects if it is
/// there, else the newest one before it. The newest where clients are divided.
pub(crate) fn active(site: &SiteId, view: &AppView) -> Option<Epoch> {
    selected(site, view.activation.as_deref())
        .filter_map(|wanted| view.epochs.range(..=wanted).next_back().map(|(epoch, _)| *epoch))
        .max()
}

/// How far the floor of an app may rise: to the oldest of the epochs that users of this site see
/// by the activation, once every one of them is there.
pub(crate) fn floor(site: &SiteId, view: &AppView) -> Option<Epoch> {
    let mut oldest = None;
    for epoch in selected(site, view.activation.as_deref()) {
        if !view.epochs.contains_key(&epoch) {
            return None;
        }
        oldest = Some(oldest.map_or(epoch, |other: Epoch| other.min(epoch)));
    }
    oldest
}

/// The floor of an app whose record the ledger does not hold: what users see by the activation, as
/// if it had been served here.
pub(crate) fn floor_without_record(site: &SiteId, activation: &Activation) -> Option<Epoch> {
    selected(site, Some(activation)).min()
}

/// A release of an app as it bears on hosts.
pub(crate) struct Form<'a> {
    /// The normal form.
    pub(crate) app: &'a App,
    /// When it was activated, if it is what the site answers with.
    pub(crate) activated: Option<Generation>,
}

/// The hosts of apps, and in words those that two apps claim. A host is the app's whose answering
/// release has it, of several the one that was activated last: so a host passes from one app to
/// another with the other's activation. Of equal claims the first app's stands.
pub(crate) fn host_table<'a>(
    apps: impl Iterator<Item = (Arc<AppView>, Vec<Form<'a>>)>,
    installation: Option<&Installation>,
) -> (HashMap<Host, Arc<AppView>>, Vec<String>) {
    let mut table: HashMap<Host, (Option<Generation>, Arc<AppView>)> = HashMap::new();
    let mut problems = Vec::new();
    for (view, forms) in apps {
        for form in forms {
            let named: Vec<Host> = match installation {
                Some(installation) => {
                    hosts::all_hosts(form.app, installation).into_iter().collect()
                }
                None => form.app.hosts().into_iter().cloned().collect(),
            };
            for host in named {
                match table.get(&host) {
                    Some((claim, _)) if form.activated > *claim => {}
                    Some((claim, other)) if form.activated == *claim && other.app != view.app => {
                        problems.push(format!(
                            "{host} is claimed by {} and by {}; {} answers for it",
                            other.app, view.app, other.app
                        ));
                        continue;
                    }
                    Some(_) => continue,
                    None => {}
                }
                table.insert(host, (form.activated, Arc::clone(&view)));
            }
        }
    }
    problems.dedup();
    (table.into_iter().map(|(host, (_, view))| (host, view)).collect(), problems)
}

#[cfg(test)]
mod tests {
    use selvedge_model::{AppName, Digest, ReleaseId};

    use super::*;

    fn shop() -> AppKey {
        (AppName::new("shop").unwrap(), EnvironmentName::production())
    }

    fn shown(numbers: &[u64]) -> BTreeMap<EpochKey, Arc<EpochView>> {
        numbers
            .iter()
            .map(|number| {
                let epoch = Epoch::new(1, *number);
                let release = ReleaseId(Digest::of(&number.to_be_bytes()));
                let view = EpochView { epoch, release, table: RouteTable::default() };
                (EpochKey { app: shop(), epoch }, Arc::new(view))
            })
            .collect()
    }

    fn activation(number: u64) -> Option<Arc<Activation>> {
        let (app, environment) = shop();
        let epoch = Epoch::new(1, number);
        Some(Arc::new(Activation::everyone(app, environment, epoch, BTreeMap::new())))
    }

    #[test]
    fn a_host_passes_from_app_to_app_with_the_activation() {
        let app = |name: &str| {
            let text = format!(
                "[app]\nname = \"{name}\"\n[[service]]\nname = \"web\"\nkind = \"static\"\nroot = \".\"\n[[route]]\nhost = \"a.example\"\nservice = \"web\"\n"
            );
            selvedge_model::manifest::parse("selvedge.toml", &text).unwrap()
        };
        let view = |name: &str| {
            let key = (AppName::new(name).unwrap(), EnvironmentName::production());
            Arc::new(app_view(&key, None, None, &BTreeMap::new()))
        };
        let (old, new) = (app("z-old"), app("a-new"));
        let owner = |old_since: Option<u64>, new_since: Option<u64>| {
            let since = |number: Option<u64>| number.map(|number| Generation::new(1, number));
            let forms = |app, number| vec![Form { app, activated: since(number) }];
            let apps =
                [(view("a-new"), forms(&new, new_since)), (view("z-old"), forms(&old, old_since))];
            let (table, problems) = host_table(apps.into_iter(), None);
            let owner = table.values().next().unwrap().app.to_string();
            (owner, problems.len())
        };
        assert_eq!(owner(Some(5), None), ("z-old".to_owned(), 0), "the other is only warm");
        assert_eq!(owner(Some(5), Some(9)), ("a-new".to_owned(), 0));
        assert_eq!(owner(Some(11), Some(9)), ("z-old".to_owned(), 0), "and back");
        assert_eq!(owner(None, None), ("a-new".to_owned(), 1));
    }

    #[test]
    fn the_last_good_epoch_answers_until_the_next_is_there_and_never_after() {
        let site = SiteId::new("fra").unwrap();
        let epoch = |number| Some(Epoch::new(1, number));
        let view = app_view(&shop(), activation(2), epoch(1), &shown(&[1]));
        assert_eq!((active(&site, &view), floor(&site, &view)), (epoch(1), None));
        let view = app_view(&shop(), activation(2), epoch(1), &shown(&[1, 2, 3]));
        assert_eq!((active(&site, &view), floor(&site, &view)), (epoch(2), epoch(2)));
        let view = app_view(&shop(), activation(2), epoch(2), &shown(&[1]));
        assert_eq!((active(&site, &view), view.epochs.len()), (None, 0));
        let view = app_view(&shop(), None, None, &shown(&[1]));
        assert_eq!((active(&site, &view), floor(&site, &view)), (None, None));
    }
}
