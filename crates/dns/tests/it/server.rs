//! The server as others see it: questions and answers are built and read by another DNS library,
//! so that a misunderstanding of ours can't agree with itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use proptest::prelude::*;
use selvedge_dns::answer::{Transport, answer};
use selvedge_dns::{Config, Server, Snapshot};
use selvedge_model::{Host, SiteId, Zone};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn host(text: &str) -> Host {
    Host::new(text).unwrap()
}

fn site(text: &str) -> SiteId {
    SiteId::new(text).unwrap()
}

/// Three sites, two located subnets, one host everywhere, one at `nyc` alone, one nowhere, and one
/// so well spread that its answer does not fit a small datagram.
fn zone() -> Zone {
    let sites = ["fra", "nyc", "tyo"];
    let mut zone = Zone {
        origin: host("edge.test"),
        serial: 7,
        nameservers: BTreeMap::from([
            (host("ns1.edge.test"), BTreeSet::from(["192.0.2.1".parse().unwrap()])),
            (
                host("ns2.edge.test"),
                BTreeSet::from(["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]),
            ),
        ]),
        ttl_s: 30,
        negative_ttl_s: 5,
        answers: 2,
        sites: sites
            .iter()
            .enumerate()
            .map(|(index, id)| {
                let v4: IpAddr = format!("127.0.1.{}", index + 1).parse().unwrap();
                let v6: IpAddr = format!("2001:db8::{}", index + 1).parse().unwrap();
                (site(id), BTreeSet::from([v4, v6]))
            })
            .collect(),
        hosts: BTreeMap::from([
            (host("shop.edge.test"), sites.iter().map(|id| site(id)).collect()),
            (host("us.only.edge.test"), BTreeSet::from([site("nyc")])),
            (host("cold.edge.test"), BTreeSet::new()),
            (host("big.edge.test"), BTreeSet::from([site("big")])),
        ]),
        locations: BTreeMap::from([
            ("198.18.0.0/24".parse().unwrap(), 1),
            ("198.18.1.0/24".parse().unwrap(), 2),
        ]),
        rankings: vec![
            vec![site("fra"), site("nyc"), site("tyo"), site("big")],
            vec![site("nyc"), site("fra"), site("tyo"), site("big")],
            vec![site("tyo"), site("nyc"), site("fra"), site("big")],
        ],
    };
    let many = (0..60).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    zone.sites.insert(site("big"), many);
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_subnet(mut message: Message, address: &str, source: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    let subnet = ClientSubnet::new(address.parse().unwrap(), source, 0);
    edns.options_mut().insert(EdnsOption::Subnet(subnet));
    message.set_edns(edns);
    message
}

fn ask_bytes(bytes: &[u8], transport: Transport) -> Option<Message> {
    let snapshot = Snapshot::new(vec![Arc::new(zone())]);
    let mut out = Vec::new();
    answer(bytes, "203.0.113.9".parse().unwrap(), transport, &snapshot, &mut out)
        .then(|| Message::from_vec(&out).expect("an answer that others can't read"))
}

fn ask(message: &Message) -> Message {
    let reply = ask_bytes(&message.to_vec().unwrap(), Transport::Udp).unwrap();
    assert_eq!(reply.metadata.id, message.metadata.id);
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert!(reply.metadata.recursion_desired && !reply.metadata.recursion_available);
    reply
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        })
        .collect()
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn scope(message: &Message) -> Option<(u8, u8)> {
    match message.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some((subnet.source_prefix(), subnet.scope_prefix())),
        _ => None,
    }
}

#[test]
fn answers_are_ranked_for_the_client() {
    let plain = ask(&query("shop.edge.test.", RecordType::A));
    assert!(plain.metadata.authoritative);
    assert_eq!(
        addresses(&plain),
        ips(&["127.0.1.1", "127.0.1.2"]),
        "an unknown client gets the default ranking"
    );
    assert_eq!(plain.answers[0].ttl, 30);
    assert_eq!(plain.edns, None, "no OPT unless asked with one");
    let tokyo = ask(&with_subnet(query("shop.edge.test.", RecordType::A), "198.18.1.0", 24));
    assert_eq!(addresses(&tokyo), ips(&["127.0.1.3", "127.0.1.2"]));
    assert_eq!(scope(&tokyo), Some((24, 24)));
    let tokyo = ask(&with_subnet(query("shop.edge.test.", RecordType::AAAA), "198.18.1.77", 32));
    assert_eq!(addresses(&tokyo), ips(&["2001:db8::3", "2001:db8::2"]));
    assert_eq!(scope(&tokyo), Some((32, 24)), "the answer holds for the whole /24");
    let vague = ask(&with_subnet(query("shop.edge.test.", RecordType::A), "198.18.0.0", 16));
    assert_eq!(scope(&vague), Some((16, 16)));
    let alone = ask(&with_subnet(query("us.only.edge.test.", RecordType::A), "198.18.1.0", 24));
    assert_eq!(addresses(&alone), ips(&["127.0.1.2"]), "only sites that the host lists");
}

#[test]
fn names_keep_their_case_and_match_without_it() {
    let reply = ask(&query("ShOp.eDgE.tEsT.", RecordType::A));
    assert_eq!(addresses(&reply).len(), 2);
    assert_eq!(reply.queries[0].name().to_string(), "ShOp.eDgE.tEsT.");
}

#[test]
fn negative_answers_carry_the_soa() {
    for (name, kind, code) in [
        ("nothing.edge.test.", RecordType::A, ResponseCode::NXDomain),
        ("a.shop.edge.test.", RecordType::A, ResponseCode::NXDomain),
        ("shop.edge.test.", RecordType::MX, ResponseCode::NoError),
        ("shop.edge.test.", RecordType::NS, ResponseCode::NoError),
        ("edge.test.", RecordType::A, ResponseCode::NoError),
        ("cold.edge.test.", RecordType::A, ResponseCode::NoError),
        ("only.edge.test.", RecordType::A, ResponseCode::NoError),
        ("us.only.edge.test.", RecordType::TXT, ResponseCode::NoError),
    ] {
        let reply = ask(&query(name, kind));
        assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty(), "{name} {kind}");
        let soa = &reply.authorities[0];
        assert_eq!((soa.name.to_string().as_str(), soa.ttl), ("edge.test.", 5), "{name} {kind}");
        assert!(matches!(&soa.data, RData::SOA(soa) if soa.serial == 7 && soa.minimum == 5));
    }
    let negative = ask(&with_subnet(query("nothing.edge.test.", RecordType::A), "198.18.1.0", 24));
    assert_eq!(scope(&negative), Some((24, 0)), "it does not depend on the subnet");
}

#[test]
fn the_apex_has_soa_and_name_servers() {
    let soa = ask(&query("edge.test.", RecordType::SOA));
    assert!(
        matches!(&soa.answers[0].data, RData::SOA(soa) if soa.mname.to_string() == "ns1.edge.test.")
    );
    let ns = ask(&query("edge.test.", RecordType::NS));
    assert_eq!(ns.answers.len(), 2);
    let glue = ask(&query("ns2.edge.test.", RecordType::AAAA));
    assert_eq!(addresses(&glue), ips(&["2001:db8::2"]));
}

#[test]
fn what_is_not_ours_or_not_sane_is_refused() {
    let code = |message: &Message| {
        let reply = ask_bytes(&message.to_vec().unwrap(), Transport::Udp).unwrap();
        assert!(!reply.metadata.authoritative && reply.answers.is_empty());
        reply.metadata.response_code
    };
    assert_eq!(code(&query("example.com.", RecordType::A)), ResponseCode::Refused);
    assert_eq!(code(&query("notedge.test.", RecordType::A)), ResponseCode::Refused);
    assert_eq!(code(&query("edge.test.", RecordType::AXFR)), ResponseCode::Refused);
    let mut update = query("edge.test.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut two = query("shop.edge.test.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("big.edge.test.").unwrap(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut version = query("shop.edge.test.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    version.set_edns(edns);
    assert_eq!(u16::from(code(&version)), 16, "BADVERS");
    let mut claims = query("shop.edge.test.", RecordType::A);
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Subnet(ClientSubnet::new(
        "198.18.1.0".parse().unwrap(),
        24,
        24,
    )));
    claims.set_edns(edns);
    assert_eq!(code(&claims), ResponseCode::FormErr);
    let mut response = query("shop.edge.test.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert!(
        ask_bytes(&response.to_vec().unwrap(), Transport::Udp).is_none(),
        "a response is never answered"
    );
    assert!(ask_bytes(b"short", Transport::Udp).is_none());
}

#[test]
fn any_is_answered_with_little() {
    let reply = ask(&query("shop.edge.test.", RecordType::ANY));
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(reply.answers[0].record_type(), RecordType::HINFO);
}

#[test]
fn what_does_not_fit_is_truncated_and_comes_over_tcp() {
    let message = query("big.edge.test.", RecordType::A);
    let small = ask(&message);
    assert!(small.metadata.truncation && small.answers.is_empty());
    let whole = ask_bytes(&message.to_vec().unwrap(), Transport::Tcp).unwrap();
    assert_eq!(whole.answers.len(), 60);
    let large = ask(&with_subnet(message, "198.18.1.0", 24));
    assert!(!large.metadata.truncation, "60 addresses fit 1232 bytes");
}

proptest! {
    #[test]
    fn no_bytes_upset_it(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = ask_bytes(&bytes, Transport::Udp);
    }

    #[test]
    fn no_damage_to_a_query_upsets_it(at in 0usize..60, byte in any::<u8>()) {
        let message = with_subnet(query("shop.edge.test.", RecordType::A), "198.18.1.0", 24);
        let mut bytes = message.to_vec().unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Some(reply) = ask_bytes(&bytes, Transport::Udp) {
            prop_assert_eq!(reply.metadata.message_type, MessageType::Response);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_real_sockets_while_the_zone_changes() {
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::new(vec![Arc::new(zone())])));
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), threads: 2 };
    let server = Server::bind(config, receiver).unwrap();
    let address = server.address();
    let token = CancellationToken::new();
    let running = tokio::spawn(server.run(token.clone()));
    let asked = tokio::task::spawn_blocking(move || {
        let message = with_subnet(query("shop.edge.test.", RecordType::A), "198.18.1.0", 24);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        udp.connect(address).unwrap();
        // More than a batch at once.
        for _ in 0..50 {
            udp.send(&message.to_vec().unwrap()).unwrap();
        }
        for _ in 0..50 {
            assert_eq!(addresses(&receive(&udp)), ips(&["127.0.1.3", "127.0.1.2"]));
        }
        over_tcp(address);
        let mut without_tokyo = zone();
        without_tokyo.hosts.get_mut(&host("shop.edge.test")).unwrap().remove(&site("tyo"));
        sender.send_replace(Arc::new(Snapshot::new(vec![Arc::new(without_tokyo)])));
        udp.send(&message.to_vec().unwrap()).unwrap();
        assert_eq!(addresses(&receive(&udp)), ips(&["127.0.1.2", "127.0.1.1"]));
    });
    asked.await.unwrap();
    token.cancel();
    running.await.unwrap();
    assert!(UdpSocket::bind(address).is_ok(), "the port is still held");
}

fn receive(udp: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let length = udp.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

/// Two queries in one write, then one byte by byte.
fn over_tcp(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    let bytes = query("big.edge.test.", RecordType::A).to_vec().unwrap();
    let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(&bytes);
    stream.write_all(&[framed.clone(), framed.clone()].concat()).unwrap();
    for byte in framed {
        stream.write_all(&[byte]).unwrap();
    }
    for _ in 0..3 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 60);
    }
}
