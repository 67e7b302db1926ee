"""Server applications: what an M-TCP server looks like."""
