// A training loop in Rust.
use std::ffi::CStr;
use std::os::raw::{c_char, c_double, c_int, c_void};

#[link(name = "fused_rmsprop")]
extern "C" {
    fn fused_rmsprop_last_error() -> *const c_char;
    fn fused_rmsprop_create() -> *mut c_void;
    fn fused_rmsprop_destroy(opt: *mut c_void);
    fn fused_rmsprop_set_option(
        opt: *mut c_void,
        group: c_int,
        name: *const c_char,
        value: c_double,
    ) -> c_int;
    fn fused_rmsprop_add_parameter(
        opt: *mut c_void,
        group: c_int,
        dtype: c_int,
        size: usize,
    ) -> c_int;
    fn fused_rmsprop_bind(
        opt: *mut c_void,
        parameter: c_int,
        name: *const c_char,
        array: *mut c_void,
    ) -> c_int;
    fn fused_rmsprop_step(opt: *mut c_void) -> c_int;
}
const FLOAT32: c_int = 0;

fn checked(code: c_int) -> c_int {
    if code < 0 {
        panic!(
            "{}",
            unsafe { CStr::from_ptr(fused_rmsprop_last_error()) }.to_string_lossy()
        );
    }
    code
}

fn c(name: &'static str) -> *const c_char {
    name.as_ptr().cast()
}

fn main() {
    const SIZE: usize = 100_000;
    let (mut param, mut grad) = (vec![1.0f32; SIZE], vec![0.0f32; SIZE]);
    let mut square_avg = vec![0.0f32; SIZE];
    let (p, g) = (param.as_mut_ptr(), grad.as_mut_ptr()); // the library writes through these
    unsafe {
        let opt = fused_rmsprop_create();
        checked(fused_rmsprop_set_option(opt, 0, c("lr\0"), 1e-3));
        checked(fused_rmsprop_set_option(opt, 0, c("alpha\0"), 0.9));
        let w = checked(fused_rmsprop_add_parameter(opt, 0, FLOAT32, SIZE));
        for &(name, array) in &[
            ("param\0", p),
            ("grad\0", g),
            ("square_avg\0", square_avg.as_mut_ptr()),
        ] {
            checked(fused_rmsprop_bind(opt, w, c(name), array.cast()));
        }
        for _batch in 0..20 {
            for i in 0..SIZE {
                *g.add(i) = *p.add(i); // of sum(param**2) / 2
            }
            checked(fused_rmsprop_step(opt));
        }
        fused_rmsprop_destroy(opt);
    }
    println!("{:.6}", param[0]); // 0.971557
}
