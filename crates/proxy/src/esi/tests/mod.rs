//! Templates against a model, URLs and heads by table, pages with pieces that come late, break, and
//! include each other.

mod pages;
mod templates;
mod urls;
