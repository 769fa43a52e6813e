//! A loaded model, ready to use: image to codes to image
