//! Train steps, loops, optimiser state and run folders
