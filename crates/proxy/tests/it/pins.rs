//! No client goes back.

use http::StatusCode;
use selvedge_model::documents::PinKeys;
use selvedge_model::pin::{Pin, PinAuthority};
use selvedge_model::{AppName, EnvironmentName};

use crate::clients::{Answer, Client};
use crate::site::{Site, app, epoch, files, pins, release, shop};

fn named(numbers: &[u64]) -> Vec<(u64, selvedge_proxy::Target)> {
    let site = |number: &u64| (*number, files(&[("index.html", &format!("release {number}"))]));
    numbers.iter().map(site).collect()
}

fn pin(authority: &PinAuthority, app: &AppName, number: u64) -> String {
    let pin = Pin { epoch: epoch(number), bucket: 77 };
    authority.sign(app, &EnvironmentName::production(), pin)
}

fn shown(answer: &Answer) -> u64 {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let number = answer.text().strip_prefix("release ").unwrap().parse().unwrap();
    assert_eq!(answer.header("selvedge-release"), release(number).short());
    assert_eq!(answer.header("selvedge-epoch"), epoch(number).to_string());
    number
}

#[tokio::test]
async fn a_pin_is_given_once_and_accepted_both_ways() {
    let site = Site::start(app(Some(1), named(&[1]))).await;
    let mut client = Client::plain(&site).await;
    let first = client.get("/").await;
    let text = first.header("selvedge-pin");
    let cookie = first.header("set-cookie");
    assert!(cookie.starts_with(&format!("selvedge-pin={text}; ")), "{cookie}");
    assert_eq!(first.header("cache-control"), "private, max-age=0, must-revalidate");
    let given = pins().verify(&shop(), &EnvironmentName::production(), text).unwrap();
    assert_eq!(given.epoch, epoch(1));

    let (cookie, header) = (format!("a=b; selvedge-pin={text}"), text);
    for sent in [("cookie", cookie.as_str()), ("selvedge-pin", header)] {
        let answer = client.get_with("/", &[sent]).await;
        assert_eq!(shown(&answer), 1);
        assert!(!answer.headers.contains_key("set-cookie"), "{sent:?}");
        assert!(!answer.headers.contains_key("selvedge-pin"), "{sent:?}");
        assert_eq!(answer.header("cache-control"), "public, max-age=0, must-revalidate");
    }

    // The bucket survives a new release.
    site.swap(app(Some(2), named(&[1, 2])));
    let answer = client.get_with("/", &[("cookie", &cookie)]).await;
    assert_eq!(shown(&answer), 2);
    let renewed = answer.header("selvedge-pin");
    let renewed = pins().verify(&shop(), &EnvironmentName::production(), renewed).unwrap();
    assert_eq!((renewed.epoch, renewed.bucket), (epoch(2), given.bucket));
}

#[tokio::test]
async fn the_newer_of_pin_and_activation_is_served() {
    let site = Site::start(app(Some(2), named(&[1, 2, 3]))).await;
    let mut client = Client::plain(&site).await;
    let text = |number| pin(&pins(), &shop(), number);

    // Older: the activation's. As new: the same. Newer and warm: the pin's.
    for (seen, expected) in [(1, 2), (2, 2), (3, 3)] {
        let answer = client.get_with("/", &[("selvedge-pin", &text(seen))]).await;
        assert_eq!(shown(&answer), expected);
        assert_eq!(answer.headers.contains_key("selvedge-pin"), seen != expected);
    }
    // Of two, the newer counts.
    let both = format!("selvedge-pin={}; selvedge-pin={}", text(3), text(1));
    assert_eq!(shown(&client.get_with("/", &[("cookie", &both)]).await), 3);
    // Newer than anything here: not now.
    let answer = client.get_with("/", &[("selvedge-pin", &text(4))]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
    assert!(!answer.headers.contains_key("selvedge-pin"));
    // Clients without a pin are none the wiser.
    assert_eq!(shown(&client.get("/").await), 2);
}

#[tokio::test]
async fn pins_that_are_not_ours_are_ignored() {
    let site = Site::start(app(Some(1), named(&[1, 2]))).await;
    let mut client = Client::plain(&site).await;
    let stranger = PinAuthority::new(&PinKeys { keys: vec!["09".repeat(32)] }).unwrap();
    let tampered = pin(&pins(), &shop(), 1).replacen("1.1.1.", "1.1.2.", 1);
    for text in [
        pin(&stranger, &shop(), 2),
        pin(&pins(), &AppName::new("other").unwrap(), 2),
        tampered,
        "1.1.2.0.".to_owned(),
        "junk".to_owned(),
    ] {
        let answer = client.get_with("/", &[("selvedge-pin", &text)]).await;
        assert_eq!(shown(&answer), 1, "{text}");
        assert!(answer.headers.contains_key("set-cookie"), "{text}");
    }
}

#[tokio::test]
async fn a_node_does_not_go_back_for_clients_without_a_pin() {
    let site = Site::start(app(Some(2), named(&[1, 2]))).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(shown(&client.get("/").await), 2);
    // An older activation, as from a stale ledger.
    site.swap(app(Some(1), named(&[1, 2])));
    assert_eq!(shown(&client.get("/").await), 2);
    site.swap(app(Some(1), named(&[1])));
    assert_eq!(client.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    // Somebody who has only seen the older one may still see it.
    let old = pin(&pins(), &shop(), 1);
    assert_eq!(shown(&client.get_with("/", &[("selvedge-pin", &old)]).await), 1);
}

#[tokio::test]
async fn something_older_stands_in_while_the_activated_epoch_is_not_warm() {
    let site = Site::start(app(Some(3), named(&[1, 2]))).await;
    let mut client = Client::plain(&site).await;
    assert_eq!(shown(&client.get("/").await), 2);
    site.swap(app(Some(3), named(&[1, 2, 3])));
    assert_eq!(shown(&client.get("/").await), 3);
    site.swap(app(Some(3), named(&[1, 2])));
    assert_eq!(client.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
}
