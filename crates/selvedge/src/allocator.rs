//! The allocator of the program: mimalloc, by its plain functions. The crate of that name calls those
//! for any alignment, which give most sizes above 1 KiB more than they need and take longer for it.

#![expect(unsafe_code, reason = "an allocator is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

/// What every block is aligned to: blocks are whole words.
const WORD: usize = size_of::<usize>();

/// See the module.
pub(crate) struct Allocator;

// SAFETY: mimalloc's functions keep what the trait demands: blocks have at least the size and alignment
// asked for, and none unwinds. Every block may be freed by `mi_free`, however it was made.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: both take any size, and the second any power of two.
        unsafe {
            match layout.align() <= WORD {
                true => mi::mi_malloc(layout.size()).cast(),
                false => mi::mi_malloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe {
            match layout.align() <= WORD {
                true => mi::mi_zalloc(layout.size()).cast(),
                false => mi::mi_zalloc_aligned(layout.size(), layout.align()).cast(),
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives back a block of this allocator.
        unsafe { mi::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller gives a block of this allocator, made for `layout`.
        unsafe {
            match layout.align() <= WORD {
                true => mi::mi_realloc(block.cast(), size).cast(),
                false => mi::mi_realloc_aligned(block.cast(), size, layout.align()).cast(),
            }
        }
    }
}
