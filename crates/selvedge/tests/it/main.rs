//! End to end: the real binary, real git, real apps, on a planet in a box.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod author;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod console;
#[cfg(test)]
mod doctor;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod guide;
#[cfg(test)]
mod init;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod manual;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod spine;
#[cfg(test)]
mod stored;
#[cfg(test)]
mod words;
