"""What stands between a checkpoint's file and what runs: its archive, its pickles, its code, its operators, a trial in
a process with limits, and signatures. All but the trial without torch."""
