//! Prefetches memory that is needed soon while other work is done.
//!
//! With very many tests, the state that judges a probe is in no cache, and loading it takes longer than the judgement
//! itself.

/// Size of a cache line in octets.
const LINE: usize = 64;

/// Prefetches the first octets of a value. Does nothing on architectures other than x86-64.
#[inline]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "fetches nothing"))]
pub fn prefetch<T: ?Sized>(value: &T, octets: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(value).cast::<i8>();
        let before = first.addr() % LINE;
        for offset in (0..before + octets.min(size_of_val(value))).step_by(LINE) {
            #[expect(unsafe_code, reason = "there is no other way to ask for memory without waiting for it")]
            // SAFETY: a prefetch reads nothing that the program can observe, and cannot fault.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(first.wrapping_sub(before).wrapping_add(offset));
            }
        }
    }
}
