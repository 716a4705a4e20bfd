"""A whole program that ends, but leaves its output to a process that goes on."""

KIND = "stdio"
import os
import time

if os.fork() == 0:
    time.sleep(30)
print("nothing")
