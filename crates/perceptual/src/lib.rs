//! Image similarity: LPIPS, PSNR, SSIM
