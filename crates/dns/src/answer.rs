//! The answer to a query: a pure function.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, OptRcode, OptionCode, Rcode};
use domain::base::message_builder::{
    AdditionalBuilder, AnswerBuilder, MessageBuilder, StaticCompressor,
};
use domain::base::name::{Name, ToName as _};
use domain::base::opt::{ClientSubnet, OptRecord};
use domain::base::record::Ttl;
use domain::base::serial::Serial;
use domain::base::{CharStr, Message, ParsedName, Question, Rtype};
use domain::rdata::{A, Aaaa, Hinfo, Ns, Soa};
use selvedge_model::Zone;

use crate::Snapshot;
use crate::location::Located;
use crate::snapshot::{CompiledZone, Found};

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: the answer must fit what the client takes.
    Udp,
    /// A stream: the answer may be as long as 65,535 bytes.
    Tcp,
}

/// The smallest size that every client takes over UDP (RFC 1035), in bytes.
const MIN_UDP: usize = 512;
/// The largest answer sent over UDP: it is never fragmented (DNS flag day 2020), in bytes.
const MAX_UDP: u16 = 1_232;
/// TTL of SOA and NS records, in seconds.
const APEX_TTL_S: u32 = 3_600;
/// SOA refresh, retry and expire for secondaries (RIPE-203's advice), in seconds.
const SOA_TIMERS_S: [u32; 3] = [86_400, 7_200, 3_600_000];

type Target = StaticCompressor<Vec<u8>>;
type Query<'a> = Message<&'a [u8]>;
type QName<'a> = ParsedName<&'a [u8]>;

/// What of EDNS (RFC 6891) a query carries.
struct Edns {
    udp_size: u16,
    version: u8,
    subnet: Option<ClientSubnet>,
}

/// Answers `query` from `client` into `out`, which is cleared first. Returns whether there is
/// anything to send: what is no query at all gets no answer, so that two servers can never talk
/// to each other without end.
pub fn answer(
    query: &[u8],
    client: IpAddr,
    transport: Transport,
    snapshot: &Snapshot,
    out: &mut Vec<u8>,
) -> bool {
    out.clear();
    let Ok(query) = Message::from_octets(query) else { return false };
    if query.header().qr() {
        return false;
    }
    let response = Response { query: &query, client, transport, out };
    response.make(snapshot).is_some()
}

struct Response<'a> {
    query: &'a Query<'a>,
    client: IpAddr,
    transport: Transport,
    out: &'a mut Vec<u8>,
}

impl Response<'_> {
    fn make(self, snapshot: &Snapshot) -> Option<()> {
        let counts = self.query.header_counts();
        if self.query.header().opcode() != Opcode::QUERY {
            return self.fail(Rcode::NOTIMP, None, None);
        }
        let Some(question) = self.query.sole_question().ok().filter(|_| counts.qdcount() == 1)
        else {
            return self.fail(Rcode::FORMERR, None, None);
        };
        let edns = match edns(self.query) {
            Ok(edns) => edns,
            Err(()) => return self.fail(Rcode::FORMERR, Some(&question), None),
        };
        if edns.as_ref().is_some_and(|edns| edns.version != 0) {
            return self.finish(&question, edns.as_ref(), OptRcode::BADVERS, None, |_| Ok(()));
        }
        let name = lower_case(question.qname());
        let zone = snapshot.zone_of(&name).filter(|_| question.qclass() == Class::IN);
        let Some(zone) = zone.filter(|_| !matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR))
        else {
            return self.fail(Rcode::REFUSED, Some(&question), edns.as_ref());
        };
        self.within_zone(zone, &name, &question, edns.as_ref())
    }

    fn within_zone(
        self,
        zone: &CompiledZone,
        name: &str,
        question: &Question<QName<'_>>,
        edns: Option<&Edns>,
    ) -> Option<()> {
        let found = zone.find(name);
        if found == Found::Absent {
            return self.negative(zone, question, edns, Rcode::NXDOMAIN, None);
        }
        let steered = match found {
            Found::Host(_) => Some(self.locate(zone, edns)),
            _ => None,
        };
        let scope = steered.map(|located| located.scope);
        let qtype = question.qtype();
        if qtype == Rtype::ANY {
            // RFC 8482, section 4.2: one record in place of all.
            let all =
                Hinfo::new(CharStr::from_octets("RFC8482").ok()?, CharStr::from_octets("").ok()?);
            return self.finish(question, edns, OptRcode::NOERROR, scope, |answer| {
                answer.push((question.qname(), Class::IN, Ttl::from_secs(APEX_TTL_S), all))
            });
        }
        let addresses: Vec<IpAddr> = match found {
            Found::Host(sites) => {
                zone.steer(sites, steered.and_then(|located| located.location)).collect()
            }
            Found::Nameserver(addresses) => addresses.iter().copied().collect(),
            Found::Apex | Found::Empty | Found::Absent => Vec::new(),
        };
        let is_apex = name == zone.zone().origin.as_str();
        let matches = |ip: &IpAddr| match qtype {
            Rtype::A => ip.is_ipv4(),
            Rtype::AAAA => ip.is_ipv6(),
            _ => false,
        };
        let positive = match qtype {
            Rtype::SOA | Rtype::NS => is_apex,
            _ => addresses.iter().any(matches),
        };
        if !positive {
            return self.negative(zone, question, edns, Rcode::NOERROR, scope);
        }
        let ttl = match steered {
            Some(_) => Ttl::from_secs(zone.zone().ttl_s),
            None => Ttl::from_secs(APEX_TTL_S),
        };
        self.finish(question, edns, OptRcode::NOERROR, scope, |answer| match qtype {
            Rtype::SOA => {
                push_soa(zone.zone(), |soa, _| answer.push((question.qname(), Class::IN, ttl, soa)))
            }
            Rtype::NS => push_ns(zone.zone(), question, ttl, answer),
            _ => push_addresses(question, ttl, addresses.iter().copied().filter(matches), answer),
        })
    }

    /// Where the client is: by the subnet that it states, else by its address.
    fn locate(&self, zone: &CompiledZone, edns: Option<&Edns>) -> Located {
        match edns.and_then(|edns| edns.subnet) {
            Some(subnet) => zone.locations().find(subnet.addr(), subnet.source_prefix_len()),
            None => {
                let client = self.client.to_canonical();
                zone.locations().find(client, if client.is_ipv4() { 32 } else { 128 })
            }
        }
    }

    /// NXDOMAIN or NODATA, with the SOA that says how long it holds (RFC 2308).
    fn negative(
        self,
        zone: &CompiledZone,
        question: &Question<QName<'_>>,
        edns: Option<&Edns>,
        rcode: Rcode,
        scope: Option<u8>,
    ) -> Option<()> {
        let limit = self.limit(edns);
        let mut answer = self.start(Some(question), rcode)?;
        answer.header_mut().set_aa(true);
        let mut authority = answer.authority();
        let ttl = Ttl::from_secs(zone.zone().negative_ttl_s.min(APEX_TTL_S));
        push_soa(zone.zone(), |soa, origin| authority.push((origin, Class::IN, ttl, soa))).ok()?;
        let additional = self.opt(authority.additional(), edns, OptRcode::from(rcode), scope)?;
        self.send(additional, limit, question, edns, scope)
    }

    /// A positive answer, or an empty one with an extended code.
    fn finish(
        self,
        question: &Question<QName<'_>>,
        edns: Option<&Edns>,
        rcode: OptRcode,
        scope: Option<u8>,
        fill: impl FnOnce(
            &mut AnswerBuilder<Target>,
        ) -> Result<(), domain::base::message_builder::PushError>,
    ) -> Option<()> {
        let limit = self.limit(edns);
        let mut answer = self.start(Some(question), rcode.rcode())?;
        answer.header_mut().set_aa(rcode == OptRcode::NOERROR);
        fill(&mut answer).ok()?;
        let additional = self.opt(answer.additional(), edns, rcode, scope)?;
        self.send(additional, limit, question, edns, scope)
    }

    /// A refusal or complaint: header, question if it could be read, OPT if there was one.
    fn fail(
        self,
        rcode: Rcode,
        question: Option<&Question<QName<'_>>>,
        edns: Option<&Edns>,
    ) -> Option<()> {
        let answer = self.start(question, rcode)?;
        let additional = self.opt(answer.additional(), edns, OptRcode::from(rcode), None)?;
        self.out.extend_from_slice(additional.finish().into_target().as_slice());
        Some(())
    }

    /// A response with its header and question.
    fn start(
        &self,
        question: Option<&Question<QName<'_>>>,
        rcode: Rcode,
    ) -> Option<AnswerBuilder<Target>> {
        let mut builder =
            MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(MIN_UDP))).ok()?;
        let header = builder.header_mut();
        let asked = self.query.header();
        header.set_id(asked.id());
        header.set_qr(true);
        header.set_opcode(asked.opcode());
        header.set_rd(asked.rd());
        header.set_rcode(rcode);
        let mut builder = builder.question();
        if let Some(question) = question {
            builder.push(question).ok()?;
        }
        Some(builder.answer())
    }

    /// OPT, if the query had one; a client subnet is echoed with the scope of the answer.
    fn opt(
        &self,
        mut additional: AdditionalBuilder<Target>,
        edns: Option<&Edns>,
        rcode: OptRcode,
        scope: Option<u8>,
    ) -> Option<AdditionalBuilder<Target>> {
        let Some(edns) = edns else { return Some(additional) };
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(MAX_UDP);
                opt.set_rcode(rcode);
                match edns.subnet {
                    Some(subnet) => opt.push(&ClientSubnet::new(
                        subnet.source_prefix_len(),
                        scope.unwrap_or(0),
                        subnet.addr(),
                    )),
                    None => Ok(()),
                }
            })
            .ok()?;
        Some(additional)
    }

    fn limit(&self, edns: Option<&Edns>) -> usize {
        match self.transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => {
                edns.map_or(MIN_UDP, |edns| usize::from(edns.udp_size.min(MAX_UDP)).max(MIN_UDP))
            }
        }
    }

    /// Keeps the response if it fits, else one with the TC bit and nothing in it, so that the
    /// client asks again over TCP.
    fn send(
        self,
        additional: AdditionalBuilder<Target>,
        limit: usize,
        question: &Question<QName<'_>>,
        edns: Option<&Edns>,
        scope: Option<u8>,
    ) -> Option<()> {
        let whole = additional.finish().into_target();
        if whole.len() <= limit {
            self.out.extend_from_slice(&whole);
            return Some(());
        }
        let mut answer = self.start(Some(question), Rcode::NOERROR)?;
        answer.header_mut().set_aa(true);
        answer.header_mut().set_tc(true);
        let additional = self.opt(answer.additional(), edns, OptRcode::NOERROR, scope)?;
        self.out.extend_from_slice(&additional.finish().into_target());
        Some(())
    }
}

fn push_soa<E>(
    zone: &Zone,
    push: impl FnOnce(Soa<Name<Vec<u8>>>, Name<Vec<u8>>) -> Result<(), E>,
) -> Result<(), E> {
    let origin = name_of(zone.origin.as_str());
    let primary = zone
        .nameservers
        .keys()
        .next()
        .map_or_else(|| origin.clone(), |host| name_of(host.as_str()));
    let mailbox = name_of(&format!("hostmaster.{}", zone.origin));
    let [refresh, retry, expire] = SOA_TIMERS_S.map(Ttl::from_secs);
    let minimum = Ttl::from_secs(zone.negative_ttl_s);
    push(Soa::new(primary, mailbox, Serial(zone.serial), refresh, retry, expire, minimum), origin)
}

fn push_ns(
    zone: &Zone,
    question: &Question<QName<'_>>,
    ttl: Ttl,
    answer: &mut AnswerBuilder<Target>,
) -> Result<(), domain::base::message_builder::PushError> {
    for host in zone.nameservers.keys() {
        answer.push((question.qname(), Class::IN, ttl, Ns::new(name_of(host.as_str()))))?;
    }
    Ok(())
}

fn push_addresses(
    question: &Question<QName<'_>>,
    ttl: Ttl,
    addresses: impl Iterator<Item = IpAddr>,
    answer: &mut AnswerBuilder<Target>,
) -> Result<(), domain::base::message_builder::PushError> {
    for address in addresses {
        match address {
            IpAddr::V4(ip) => answer.push((question.qname(), Class::IN, ttl, A::new(ip)))?,
            IpAddr::V6(ip) => answer.push((question.qname(), Class::IN, ttl, Aaaa::new(ip)))?,
        }
    }
    Ok(())
}

/// A host's name on the wire. Hosts are valid names by type, so the root never stands in.
fn name_of(host: &str) -> Name<Vec<u8>> {
    Name::vec_from_str(host).unwrap_or_else(|_| Name::root_vec())
}

/// The name in lower case without the dot at the end. Labels with bytes that no host has come out
/// escaped, so that they match nothing.
fn lower_case(name: &QName<'_>) -> String {
    let mut text = name.to_name::<Vec<u8>>().to_string();
    text.make_ascii_lowercase();
    text
}

/// Reads EDNS. Errors are what RFC 6891 and RFC 7871 want FORMERR for: two OPT records, a client
/// subnet that can't be read or claims a scope.
fn edns(query: &Query<'_>) -> Result<Option<Edns>, ()> {
    let mut edns = None;
    let mut opts = 0;
    for record in query.additional().map_err(drop)? {
        let record = record.map_err(drop)?;
        if record.rtype() == Rtype::OPT {
            opts += 1;
        }
    }
    if opts > 1 {
        return Err(());
    }
    if let Some(opt) = query.opt() {
        edns = Some(Edns {
            udp_size: opt.udp_payload_size(),
            version: opt.version(),
            subnet: subnet(&opt)?,
        });
    }
    Ok(edns.filter(|_| opts == 1))
}

fn subnet(opt: &OptRecord<&[u8]>) -> Result<Option<ClientSubnet>, ()> {
    let carries_one = opt
        .opt()
        .iter::<domain::base::opt::UnknownOptData<_>>()
        .flatten()
        .any(|option| option.code() == OptionCode::CLIENT_SUBNET);
    if !carries_one {
        return Ok(None);
    }
    match opt.opt().iter::<ClientSubnet>().next() {
        Some(Ok(subnet)) if subnet.scope_prefix_len() == 0 => Ok(Some(subnet)),
        _ => Err(()),
    }
}
