//! cuBLAS, where its library is at hand: what multiplies by bf16.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use cudarc::cublas::{result, sys};
use cudarc::driver::sys as driver;
use half::bf16;
use lacuna::{Device, View, ViewMut};

/// A handle, on the default stream of a device's context.
pub(super) struct Cublas {
    handle: sys::cublasHandle_t,
}

impl Cublas {
    /// Makes the device's context current on this thread, for good; `Err` says why there is no cuBLAS.
    pub(super) fn open(device: &Device) -> Result<Self, String> {
        // SAFETY: the context is the device's, which outlives this; finding a library runs only its initialisers.
        unsafe {
            let code = driver::cuCtxSetCurrent(device.context());
            if code != driver::CUresult::CUDA_SUCCESS {
                return Err(format!("cuCtxSetCurrent: {code:?}"));
            }
            if !sys::is_culib_present() {
                return Err(
                    "no libcublas is found; put its directory in LD_LIBRARY_PATH".to_owned()
                );
            }
        }
        let handle = result::create_handle().map_err(|error| format!("cublasCreate: {error}"))?;
        Ok(Self { handle })
    }

    /// `output[i][r] = sum over k of weights[r][k] * x[i][k]`, in f32, to bf16.
    pub(super) fn multiply(
        &self,
        weights: &View<'_, bf16>,
        [n_rows, n_columns]: [u64; 2],
        x: &View<'_, bf16>,
        n_inputs: u64,
        output: &ViewMut<'_, bf16>,
    ) -> Result<(), String> {
        assert!(weights.len() as u64 >= n_rows * n_columns, "the weights of the matrix");
        assert!(x.len() as u64 >= n_inputs * n_columns, "an input of as many columns");
        assert!(output.len() as u64 >= n_inputs * n_rows, "an output of as many rows");
        let [n_rows, n_columns, n_inputs] = [n_rows, n_columns, n_inputs].map(|n| n as c_int);
        let (one, zero) = (1.0_f32, 0.0_f32);
        let number = |number: &f32| std::ptr::from_ref(number).cast::<c_void>();
        let half = sys::cudaDataType::CUDA_R_16BF;
        // Rows that follow one another are cuBLAS's columns.
        // SAFETY: the three views are device memory of the context that is current, as long as asked above.
        let done = unsafe {
            result::gemm_ex(
                self.handle,
                sys::cublasOperation_t::CUBLAS_OP_T,
                sys::cublasOperation_t::CUBLAS_OP_N,
                n_rows,
                n_inputs,
                n_columns,
                number(&one),
                weights.address() as *const c_void,
                half,
                n_columns,
                x.address() as *const c_void,
                half,
                n_columns,
                number(&zero),
                output.address() as *mut c_void,
                half,
                n_rows,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(|error| format!("cublasGemmEx: {error}"))
    }

    /// Waits for the context.
    pub(super) fn synchronize(&self) -> Result<(), String> {
        // SAFETY: the context is current.
        match unsafe { driver::cuCtxSynchronize() } {
            driver::CUresult::CUDA_SUCCESS => Ok(()),
            code => Err(format!("cuCtxSynchronize: {code:?}")),
        }
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and used by nobody else. A failure has no remedy.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
