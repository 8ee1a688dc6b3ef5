//! Sites, and the facts about them that placement and steering use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::geo::Point;
use crate::id::{IdError, ProviderName, SiteId};

/// A continent, the coarsest answer to "where".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Region {
    /// Africa.
    Africa,
    /// Asia, the Middle East included.
    Asia,
    /// Europe.
    Europe,
    /// North and Central America.
    NorthAmerica,
    /// Australia, New Zealand and the Pacific.
    Oceania,
    /// South America.
    SouthAmerica,
}

impl Region {
    /// Every region, in order of name.
    pub const ALL: [Region; 6] = [
        Self::Africa,
        Self::Asia,
        Self::Europe,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// The name used in `selvedge.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Africa => "africa",
            Self::Asia => "asia",
            Self::Europe => "europe",
            Self::NorthAmerica => "north-america",
            Self::Oceania => "oceania",
            Self::SouthAmerica => "south-america",
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A legal area: an ISO 3166-1 alpha-2 country code, or `EU`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Jurisdiction(String);

/// Member states of the European Union, ISO 3166-1 alpha-2, as of 2026.
const EU: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT",
    "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];

/// ISO 3166-1 alpha-2 as of 2026, and XK, which is used for Kosovo.
const COUNTRIES: &str = "\
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR \
    BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ \
    EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW \
    GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY \
    KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV \
    MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY \
    QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG \
    TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA \
    ZM ZW";

impl Jurisdiction {
    /// Checks and upper-cases `text`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
            Ok(Self(text.to_ascii_uppercase()))
        } else {
            Err(IdError {
                kind: "jurisdiction",
                text: text.chars().take(100).collect(),
                rule: "use a two-letter country code such as DE, or EU",
            })
        }
    }

    /// The code in upper case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the code stands for a place; two letters alone make a code.
    pub fn is_assigned(&self) -> bool {
        self.0 == "EU" || COUNTRIES.split(' ').any(|country| country == self.0)
    }

    /// Whether a place in `country` lies in this jurisdiction.
    pub fn contains(&self, country: &str) -> bool {
        self.0 == country || (self.0 == "EU" && EU.contains(&country))
    }
}

impl fmt::Display for Jurisdiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Jurisdiction {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Jurisdiction {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(&text)
    }
}

impl From<Jurisdiction> for String {
    fn from(jurisdiction: Jurisdiction) -> String {
        jurisdiction.0
    }
}

/// A location where apps can be served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Unique in the installation.
    pub id: SiteId,
    /// The city, for people.
    pub city: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// The continent.
    pub region: Region,
    /// Where it stands.
    pub point: Point,
    /// Whose machines these are.
    pub provider: ProviderName,
    /// Where users reach it.
    pub addresses: Vec<IpAddr>,
    /// TCP port of plain HTTP.
    pub http_port: u16,
    /// TCP port of HTTPS.
    pub https_port: u16,
    /// Memory for workloads, in MiB.
    pub memory_mib: u64,
    /// A draining site gets no new apps and leaves DNS answers.
    pub draining: bool,
}

/// All sites of an installation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// By id.
    pub sites: BTreeMap<SiteId, Site>,
}

impl Topology {
    /// The providers that have a site.
    pub fn providers(&self) -> BTreeSet<&ProviderName> {
        self.sites.values().map(|site| &site.provider).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eu_contains_its_members() {
        let eu = Jurisdiction::new("eu").unwrap();
        assert!(eu.contains("DE"));
        assert!(!eu.contains("GB"));
        assert!(Jurisdiction::new("Germany").is_err());
        assert!(EU.iter().all(|code| Jurisdiction::new(code).unwrap().is_assigned()));
        assert!(!Jurisdiction::new("XX").unwrap().is_assigned());
    }
}
