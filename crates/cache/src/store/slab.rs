//! Values at dense indices, in pages: growing copies nothing, and what is no longer needed is given
//! back a page at a time.

/// Values in a page.
const PAGE: usize = 64;

pub(super) struct Slab<T> {
    pages: Vec<Vec<T>>,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.pages.get(index as usize / PAGE)?.get(index as usize % PAGE)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.pages.get_mut(index as usize / PAGE)?.get_mut(index as usize % PAGE)
    }

    pub(super) fn push(&mut self, value: T) {
        match self.pages.last_mut() {
            Some(page) if page.len() < PAGE => page.push(value),
            _ => {
                let mut page = Vec::with_capacity(PAGE);
                page.push(value);
                self.pages.push(page);
            }
        }
        self.len += 1;
    }

    /// Takes a value out. The last one moves to its index.
    pub(super) fn swap_remove(&mut self, index: u32) -> Option<T> {
        let page = self.pages.last_mut()?;
        let last = page.pop()?;
        if page.is_empty() {
            self.pages.pop();
        }
        self.len -= 1;
        match self.get_mut(index) {
            Some(place) => Some(std::mem::replace(place, last)),
            None => Some(last),
        }
    }
}
